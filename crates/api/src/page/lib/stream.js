// Server-sent events, read with fetch: EventSource cannot send a token.

// Reads events until the stream ends, and throws if it cannot be read. `onEvent` gets the name and
// the id of each. The data is not needed: views ask for what they show.
export async function readEvents(answer, onEvent) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let left = "";
  let event = { name: "message", id: null };
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (left + value).split("\n");
    left = lines.pop();
    for (const line of lines) {
      if (line === "") {
        if (event.isData) onEvent(event);
        event = { name: "message", id: null };
      } else if (line.startsWith("event: ")) event.name = line.slice(7);
      else if (line.startsWith("id: ")) event.id = line.slice(4);
      else if (line.startsWith("data: ")) event.isData = true;
    }
  }
}
