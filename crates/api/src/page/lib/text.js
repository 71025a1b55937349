// Numbers, times and names as text.

export function grouped(number) {
  return number === null || number === undefined ? "–" : String(number).replace(/\B(?=(\d{3})+$)/g, "\u202f");
}

export function plural(n, one, many = one + "s") {
  return `${grouped(n)} ${String(n) === "1" ? one : many}`;
}

export function percent(share, unknown = "not yet known") {
  return share === null || share === undefined ? unknown : (share * 100).toFixed(1) + "\u202f%";
}

export const words = (name) => String(name).replaceAll("_", " ");

export function eth(gwei) {
  const value = Number(gwei) / 1e9;
  return grouped(value >= 1000 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(3)) + "\u202fETH";
}

// A hash or key, short enough for a line of text.
export function short(hex, n = 8) {
  return hex.length > n + 10 ? hex.slice(0, n + 2) + "…" + hex.slice(-4) : hex;
}

export function clock(text) {
  return text.slice(0, 10) + " " + text.slice(11, 19) + " UTC";
}

export function millis(ms) {
  const size = Math.abs(ms);
  const value = size < 1000 ? `${size.toFixed(0)}\u202fms` : size < 120000 ? `${(size / 1000).toFixed(2)}\u202fs` : span(size / 1000);
  return (ms < 0 ? "−" : "") + value;
}

export function span(seconds) {
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${(seconds / 3600).toFixed(1)} h`;
  return `${Math.round(seconds / 86400)} days`;
}

export function ago(text, now = Date.now()) {
  return span(Math.max(0, (now - Date.parse(text)) / 1000)) + " ago";
}

// Milliseconds between two RFC 3339 times with nanoseconds.
export function between(first, second) {
  return Date.parse(second) - Date.parse(first);
}

// A word of a command as a shell takes it.
export function quoted(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

// "a, b and 3 more". `all` is how many there are, if only some have a name here.
export function listed(names, most = 8, all = names.length) {
  const shown = names.slice(0, most);
  const more = all - shown.length;
  return shown.join(", ") + (more > 0 ? ` and ${grouped(more)} more` : "");
}
