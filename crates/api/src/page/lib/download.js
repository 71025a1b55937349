// Links to the API while a token is held. The browser would follow them without it, so the page
// fetches what they name and gives it to the reader as a file.
import { heldToken, requestHeaders } from "./token.js";

const NEED_A_TOKEN = /^\/(v1\/|openapi\.json$)/;

async function download(link) {
  const answer = await fetch(link.href, { headers: requestHeaders() });
  if (!answer.ok) throw new Error((await answer.json().catch(() => null))?.detail ?? `status ${answer.status}`);
  const file = document.createElement("a");
  file.href = URL.createObjectURL(await answer.blob());
  const type = (answer.headers.get("content-type") ?? "").split(";")[0];
  const name = link.pathname.split("/").pop();
  file.download = link.download || (type === "application/json" && !name.includes(".") ? name + ".json" : name);
  file.click();
  // The browser reads the content later.
  setTimeout(() => URL.revokeObjectURL(file.href), 60000);
}

export function downloadsWithToken() {
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("a[href]");
    if (!link || event.defaultPrevented || heldToken() === null) return;
    if (link.origin !== location.origin || !NEED_A_TOKEN.test(link.pathname)) return;
    event.preventDefault();
    download(link).catch((error) => dispatchEvent(new CustomEvent("not-downloaded", { detail: { name: link.pathname, reason: error.message } })));
  });
}
