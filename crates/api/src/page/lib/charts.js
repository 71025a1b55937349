// Charts as SVG. They take their colours from the style sheet, so that they follow light and dark.
import { html, useEffect, useRef, useState } from "../vendor/preact-htm.js";
import { grouped } from "./text.js";

// The width of the place where a chart goes, in CSS pixels.
function useWidth(first = 600) {
  const ref = useRef();
  const [width, setWidth] = useState(first);
  useEffect(() => {
    const observer = new ResizeObserver(([entry]) => setWidth(Math.max(200, Math.floor(entry.contentRect.width))));
    observer.observe(ref.current);
    return () => observer.disconnect();
  }, []);
  return [ref, width];
}

// Round numbers for an axis from 0 to `max`; the last one is not less.
function ticks(max, wanted = 4) {
  if (!(max > 0)) return [0];
  const rough = max / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
  const made = [];
  for (let at = 0; at < max + step * (1 - 1e-9); at += step) made.push(at);
  return made;
}

const LEFT = 46;
const BOTTOM = 22;
const TOP = 10;

// One bar for each row: { x, name, value (null: not known), note, tone }. `note` is shown for the
// bar under the pointer; the table beside a chart has the numbers for everybody else.
export function BarChart({ label, rows, max, height = 180, axis = grouped, unit, every, marks = [] }) {
  const [ref, width] = useWidth();
  const [at, setAt] = useState(null);
  const top = ticks(max ?? Math.max(1, ...rows.map((row) => row.value ?? 0))).at(-1);
  const inner = width - LEFT;
  const step = inner / Math.max(1, rows.length);
  const y = (value) => TOP + (1 - value / top) * (height - TOP - BOTTOM);
  const tellEvery = every ?? Math.max(1, Math.ceil(rows.length / Math.max(2, inner / 90)));
  const now = at === null ? null : rows[at];
  const move = (event) => {
    const box = event.currentTarget.getBoundingClientRect();
    const n = Math.floor((event.clientX - box.left - LEFT) / step);
    setAt(n >= 0 && n < rows.length ? n : null);
  };
  return html`<figure class="chart" ref=${ref}>
    <svg width=${width} height=${height} role="img" aria-label=${label} onPointerMove=${move} onPointerLeave=${() => setAt(null)}>
      ${ticks(top).map((tick) => html`<g key=${"t" + tick}><line class="grid" x1=${LEFT} x2=${width} y1=${y(tick)} y2=${y(tick)} /><text class="axis" x=${LEFT - 6} y=${y(tick) + 4} text-anchor="end">${axis(tick)}</text></g>`)}
      ${rows.map((row, n) => html`<g key=${row.x}>
        ${row.value === null
          ? html`<rect class="unknown" x=${LEFT + n * step + 0.5} y=${TOP} width=${Math.max(1, step - 1)} height=${height - TOP - BOTTOM} />`
          : html`<rect class=${"bar " + (row.tone ?? "")} x=${LEFT + n * step + 0.5} y=${y(row.value)} width=${Math.max(1, step - 1)} height=${Math.max(row.value > 0 ? 1 : 0, y(0) - y(row.value))} />`}
        ${n % tellEvery === 0 && LEFT + (n + 0.5) * step < width - 14 && html`<text class="axis" x=${LEFT + n * step + step / 2} y=${height - 6} text-anchor="middle">${row.name ?? row.x}</text>`}
      </g>`)}
      ${marks.map((value) => html`<line key=${value} class="mark" x1=${LEFT} x2=${width} y1=${y(value)} y2=${y(value)} />`)}
      ${now && html`<rect class="cursor" x=${LEFT + at * step} y=${TOP} width=${step} height=${height - TOP - BOTTOM} />`}
    </svg>
    <figcaption class="readout">${now ? now.note : unit}</figcaption>
  </figure>`;
}

// A count that only grows: points { at (number), value }.
export function StepChart({ label, points, from, to, axisX, height = 190, unit }) {
  const [ref, width] = useWidth();
  const top = ticks(Math.max(1, ...points.map((point) => point.value))).at(-1);
  const reach = Math.max(1, to - from);
  const x = (at) => LEFT + ((at - from) / reach) * (width - LEFT - 12);
  const y = (value) => TOP + (1 - value / top) * (height - TOP - BOTTOM);
  let path = `M ${x(from)} ${y(0)}`;
  for (const point of points) path += ` H ${x(point.at)} V ${y(point.value)}`;
  path += ` H ${x(to)}`;
  const n = Math.max(2, Math.min(7, Math.floor((width - LEFT) / 120)));
  return html`<figure class="chart" ref=${ref}>
    <svg width=${width} height=${height} role="img" aria-label=${label}>
      ${ticks(top).map((tick) => html`<g key=${tick}><line class="grid" x1=${LEFT} x2=${width} y1=${y(tick)} y2=${y(tick)} /><text class="axis" x=${LEFT - 6} y=${y(tick) + 4} text-anchor="end">${grouped(tick)}</text></g>`)}
      <path class="area" d=${path + ` V ${y(0)} Z`} />
      <path class="line" d=${path} />
      ${Array.from({ length: n }, (_, k) => from + (reach * k) / (n - 1)).map((at, k) => html`<text key=${k} class="axis" x=${x(at)} y=${height - 6} text-anchor=${k === 0 ? "start" : k === n - 1 ? "end" : "middle"}>${axisX(at)}</text>`)}
    </svg>
    ${unit && html`<figcaption class="readout">${unit}</figcaption>`}
  </figure>`;
}

// The place nearest to `x` at which a centred text of 12 px stays inside the chart.
function inside(x, text, width) {
  const half = text.length * 3.4;
  return Math.max(half, Math.min(width - half, x));
}

// Two votes as spans from source to target, so that a surround is seen.
// spans: [{ name, from, to, tone }]
export function SpanChart({ label, spans, height = 112 }) {
  const [ref, width] = useWidth();
  const low = Math.min(...spans.map((span) => span.from));
  const high = Math.max(...spans.map((span) => span.to), low + 1);
  const side = 26;
  const x = (epoch) => side + ((epoch - low) / (high - low)) * (width - 2 * side);
  const named = [...new Set(spans.flatMap((span) => [span.from, span.to]))].sort((a, b) => a - b);
  return html`<figure class="chart spans" ref=${ref}>
    <svg width=${width} height=${height} role="img" aria-label=${label}>
      ${named.map((epoch) => html`<g key=${epoch}><line class="grid" x1=${x(epoch)} x2=${x(epoch)} y1="8" y2=${height - 22} /><text class="axis" x=${x(epoch)} y=${height - 6} text-anchor="middle">${grouped(epoch)}</text></g>`)}
      ${spans.map((span, n) => {
        const y = 28 + n * 36;
        return html`<g key=${span.name} class=${"span " + span.tone}>
          <line x1=${x(span.from)} x2=${x(span.to)} y1=${y} y2=${y} />
          <circle cx=${x(span.from)} cy=${y} r="5" class="source" /><circle cx=${x(span.to)} cy=${y} r="6" />
          <text x=${inside((x(span.from) + x(span.to)) / 2, span.name, width)} y=${y - 9} text-anchor="middle">${span.name}</text>
        </g>`;
      })}
    </svg>
    <figcaption class="readout">Epochs. Hollow end: source, full end: target.</figcaption>
  </figure>`;
}

// When things arrived within a slot, against its deadlines, in ms after its start.
// events: [{ name, brief (for narrow screens), at, tone }], deadlines: [[name, at]]
export function SlotChart({ label, events, deadlines, slotMs }) {
  const [ref, width] = useWidth();
  const low = Math.min(0, ...events.map((event) => event.at));
  const high = Math.max(slotMs, ...events.map((event) => event.at));
  const side = 14;
  const x = (at) => side + ((at - low) / (high - low)) * (width - 2 * side);
  const height = 62 + events.length * 26;
  const marks = [["slot starts", 0], ...deadlines, ["slot ends", slotMs]];
  return html`<figure class="chart" ref=${ref}>
    <svg width=${width} height=${height} role="img" aria-label=${label}>
      ${marks.map(([name, at], n) => html`<g key=${name}>
        <line class=${n === 0 || n === marks.length - 1 ? "grid" : "mark"} x1=${x(at)} x2=${x(at)} y1="34" y2=${height - 20} />
        <text class="axis" x=${x(at)} y=${n % 2 ? 28 : 14} text-anchor=${x(at) < 60 ? "start" : x(at) > width - 60 ? "end" : "middle"}>${name}</text>
        <text class="axis" x=${x(at)} y=${height - 5} text-anchor=${x(at) < 20 ? "start" : x(at) > width - 20 ? "end" : "middle"}>${(at / 1000).toFixed(at % 1000 ? 1 : 0)} s</text>
      </g>`)}
      ${events.map((event, n) => {
        const y = 50 + n * 26;
        const name = width < 560 ? event.brief : event.name;
        const toLeft = x(event.at) + 14 + name.length * 6.8 > width;
        return html`<g key=${n} class=${"event " + (event.tone ?? "")}>
          <line class="lane" x1=${x(Math.max(low, 0))} x2=${x(event.at)} y1=${y} y2=${y} /><circle cx=${x(event.at)} cy=${y} r="6" />
          <text x=${x(event.at) + (toLeft ? -11 : 11)} y=${y + 4} text-anchor=${toLeft ? "end" : "start"}>${name}</text>
        </g>`;
      })}
    </svg>
  </figure>`;
}

// The votes of one validator by target epoch, and the gaps between them.
export function HistoryStrip({ label, votes, gaps, height = 44 }) {
  const [ref, width] = useWidth();
  const epochs = votes.map((vote) => Number(vote.target.epoch));
  const all = epochs.concat(gaps.flatMap((gap) => [Number(gap.first_epoch), Number(gap.last_epoch)]));
  const high = Math.max(...all);
  // Votes for epochs in the far future would make every cell too thin to see.
  const low = Math.max(Math.min(...all), high - 400);
  const step = width / (high - low + 1);
  const cell = Math.max(1, Math.min(step - 1, 22));
  const x = (epoch) => (epoch - low) * step;
  const bad = new Set(votes.filter((vote) => vote.contradicts).map((vote) => Number(vote.target.epoch)));
  const seen = [...new Set(epochs)].filter((epoch) => epoch >= low);
  const silent = gaps.filter((gap) => Number(gap.last_epoch) >= low);
  return html`<figure class="chart" ref=${ref}>
    <svg width=${width} height=${height} role="img" aria-label=${label}>
      ${silent.map((gap) => html`<rect key=${"g" + gap.first_epoch} class="gap" x=${x(Math.max(low, Number(gap.first_epoch))) + 0.5} y="4.5" width=${Math.max(1, (Number(gap.last_epoch) - Math.max(low, Number(gap.first_epoch))) * step + cell - 1)} height="19" />`)}
      ${seen.map((epoch) => html`<rect key=${epoch} class=${"bar " + (bad.has(epoch) ? "bad" : "")} x=${x(epoch)} y="4" width=${cell} height="20" rx="2" />`)}
      <text class="axis" x="0" y=${height - 4}>${grouped(low)}</text><text class="axis" x=${width} y=${height - 4} text-anchor="end">${grouped(high)}</text>
    </svg>
  </figure>`;
}
