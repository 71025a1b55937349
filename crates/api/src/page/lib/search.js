// The search box: an index, slot, epoch, public key, root, or label.
import { html, useEffect, useRef, useState } from "../vendor/preact-htm.js";
import { getJson } from "./data.js";
import { grouped, short } from "./text.js";

export function go(href) {
  dispatchEvent(new CustomEvent("go", { detail: { href } }));
}

// Changes the address of the view that is shown, and neither scrolls nor adds to the history.
export function replace(href) {
  dispatchEvent(new CustomEvent("go", { detail: { href, isSameView: true } }));
}

// What a text may mean, as [name, address]; the likeliest first.
export function meanings(text) {
  const wanted = text.trim().replace(/[\s,_](?=\d{3}\b)/g, "");
  const named = /^(slot|epoch|validator|index)s?\s*[:#]?\s*(\d{1,20})$/i.exec(wanted);
  if (named) {
    const kind = { slot: "slots", epoch: "epochs", validator: "validators", index: "validators" }[named[1].toLowerCase()];
    return [[`${named[1]} ${named[2]}`, `/${kind}/${named[2]}`]];
  }
  if (/^\d{1,20}$/.test(wanted)) {
    return [[`Validator ${wanted}`, "/validators/" + wanted], [`Slot ${grouped(wanted)}`, "/slots/" + wanted], [`Epoch ${grouped(wanted)}`, "/epochs/" + wanted]];
  }
  if (/^0x[0-9a-f]{96}$/i.test(wanted)) return [[`Validator ${short(wanted)}`, "/validators/" + wanted.toLowerCase()]];
  if (/^[^=\s]+=.+$/.test(wanted)) return [[`Findings with label ${wanted}`, "/?label=" + encodeURIComponent(wanted)]];
  return [];
}

// What a root names: a finding, an incident, or a block of the last epochs.
async function ofRoot(root) {
  const named = await getJson("/v1/roots/" + root);
  return [
    named.finding && ["Finding " + short(root), "/findings/" + root],
    named.incident && ["Incident " + short(root), "/incidents/" + root],
    named.block_slot !== null && [`Block of slot ${grouped(named.block_slot)}`, "/slots/" + named.block_slot],
  ].filter(Boolean);
}

export function Search() {
  const [text, setText] = useState("");
  const [found, setFound] = useState(null);
  const [isOpen, setOpen] = useState(false);
  const box = useRef();
  const root = /^0x[0-9a-f]{64}$/i.test(text.trim()) ? text.trim().toLowerCase() : null;
  useEffect(() => {
    if (!root) return setFound(null);
    let isCurrent = true;
    setFound(null);
    ofRoot(root).then((rows) => isCurrent && setFound(rows), () => isCurrent && setFound([]));
    return () => (isCurrent = false);
  }, [root]);
  useEffect(() => {
    const outside = (event) => box.current?.contains(event.target) || setOpen(false);
    document.addEventListener("pointerdown", outside);
    document.addEventListener("focusin", outside);
    return () => {
      document.removeEventListener("pointerdown", outside);
      document.removeEventListener("focusin", outside);
    };
  }, []);
  const rows = root ? found ?? [] : meanings(text);
  const visit = (href) => {
    setOpen(false);
    setText("");
    go(href);
  };
  const submit = (event) => {
    event.preventDefault();
    if (rows.length) visit(rows[0][1]);
  };
  const message = !text.trim() ? "" : rows.length ? `${rows.length} results` : root && !found ? "Searching" : root
    ? "No finding, incident or recent block has this root." : "Write an index, slot, epoch, public key, root, or label=value.";
  return html`<form class="search" role="search" onSubmit=${submit} ref=${box} onKeyDown=${(event) => event.key === "Escape" && setOpen(false)}>
    <input type="search" aria-label="Search: index, public key, slot, root or label" placeholder="index, key, slot, root, label" value=${text} autocomplete="off" spellcheck="false"
      onInput=${(event) => { setText(event.currentTarget.value); setOpen(true); }} onFocus=${() => setOpen(true)} />
    ${isOpen && text.trim() && html`<div class="results">
      ${rows.length ? html`<ul>${rows.map(([name, href]) => html`<li key=${href}><a href=${href} onClick=${(event) => { if (!event.ctrlKey && !event.metaKey) { event.preventDefault(); visit(href); } }}>${name}</a></li>`)}</ul>` : html`<p>${message}</p>`}
    </div>`}
    <span class="unseen" role="status">${isOpen ? message : ""}</span>
  </form>`;
}
