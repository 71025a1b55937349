// The block tree, drawn: slots from left to right, one lane for each branch.
import { html, useEffect, useRef } from "../vendor/preact-htm.js";
import { grouped, plural } from "./text.js";

const LANE = 46;
const STEP = 26;
const MOST_SLOTS = 72;

// Gives each block a lane: the leading branch is the first, others follow in the order of their
// branches, and a block has the lane of the best branch that contains it.
function layout(heads) {
  const blocks = new Map(heads.blocks.map((block) => [block.root, block]));
  const lane = new Map();
  const ends = heads.branches.map((branch) => branch.end);
  for (const block of heads.blocks) if (block.is_end && !ends.includes(block.root)) ends.push(block.root);
  let lanes = 0;
  for (const end of ends) {
    let isUsed = false;
    for (let at = end; at && blocks.has(at) && !lane.has(at); at = blocks.get(at).parent) {
      lane.set(at, lanes);
      isUsed = true;
    }
    if (isUsed) lanes += 1;
  }
  const last = Math.max(...heads.blocks.map((block) => Number(block.slot)));
  const shown = heads.blocks.filter((block) => lane.has(block.root) && Number(block.slot) > last - MOST_SLOTS);
  const first = Math.min(...shown.map((block) => Number(block.slot)));
  return { blocks, lane, lanes, shown, first, last };
}

export function BlockTree({ heads }) {
  const { blocks, lane, lanes, shown, first, last } = layout(heads);
  const x = (slot) => 30 + (Number(slot) - first) * STEP;
  const y = (root) => 26 + lane.get(root) * LANE;
  const width = x(last) + 60;
  const height = 26 + lanes * LANE + 18;
  const most = Math.max(1, ...shown.map((block) => block.weight.votes));
  // A recording does not know whose turn it was.
  const knowsTurns = shown.some((block) => block.in_turn);
  const isShown = new Set(shown.map((block) => block.root));
  const every = 8;
  const slots = [];
  for (let slot = Math.ceil(first / every) * every; slot <= last; slot += every) slots.push(slot);
  // The newest blocks are at the right end.
  const box = useRef();
  useEffect(() => {
    box.current.scrollLeft = box.current.scrollWidth;
  }, [last]);
  return html`<div class="scroll tree" ref=${box} tabindex="0" role="region" aria-label="Branches, slots from left to right">
    <svg width=${width} height=${height} role="group" aria-label=${`${plural(shown.length, "block")} on ${plural(lanes, "branch", "branches")}`}>
      ${slots.map((slot) => html`<g key=${slot}><line class="grid" x1=${x(slot)} x2=${x(slot)} y1="6" y2=${height - 20} /><text class="axis" x=${x(slot)} y=${height - 6} text-anchor="middle">${grouped(slot)}</text></g>`)}
      ${shown.map((block) => {
        if (!block.parent || !isShown.has(block.parent)) return null;
        const parent = blocks.get(block.parent);
        const [x1, y1, x2, y2] = [x(parent.slot), y(parent.root), x(block.slot), y(block.root)];
        return html`<path key=${"e" + block.root} class=${"edge l" + (lane.get(block.root) % 4)} stroke-width=${1.5 + (block.weight.votes / most) * 6} d=${y1 === y2 ? `M ${x1} ${y1} H ${x2}` : `M ${x1} ${y1} C ${x1 + 16} ${y2} ${x1 + 6} ${y2} ${x2} ${y2}`} />`;
      })}
      ${shown.map((block) => html`<a key=${block.root} href=${"/slots/" + block.slot} aria-label=${`Slot ${block.slot}, block ${block.root.slice(0, 10)}, weight ${plural(block.weight.votes, "vote")}${block.is_head ? ", the head" : ""}${block.peers ? `, ${block.peers} peers stand here` : ""}`}>
        <circle class=${`block l${lane.get(block.root) % 4}${block.in_turn || !knowsTurns ? "" : " outofturn"}${block.is_head ? " head" : ""}`} cx=${x(block.slot)} cy=${y(block.root)} r=${block.is_head ? 9 : 7} />
        ${block.peers > 0 && html`<text class="axis" x=${x(block.slot)} y=${y(block.root) - 12} text-anchor="middle">${block.peers}</text>`}
      </a>`)}
      ${heads.branches.filter((branch) => isShown.has(branch.end)).map((branch) => html`<text key=${"t" + branch.end} class="tip" x=${x(branch.slot) + 14} y=${y(branch.end) + 4}>${branch.weight_share === null ? branch.votes.votes : Math.round(branch.weight_share * 100) + "\u202f%"}</text>`)}
    </svg>
  </div>`;
}
