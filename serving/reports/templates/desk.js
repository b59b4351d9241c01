"use strict";
// Judgements by the number of their pair: true (right), false, or absent. Nothing leaves the page but the saved file.
const { file, pairs } = JSON.parse(document.getElementById("pairs").textContent);
const cards = [...document.querySelectorAll(".card")];
const state = document.getElementById("state");
const place = `judgements of ${JSON.stringify(pairs.map((each) => [each.image, each.caption, each.sentence]))}`;
const judged = new Map();
let current = 0;
let unsaved = false;

function stored(change) {
  // Some browsers give no storage to a page of the file system; the page works without.
  try {
    return change(window.localStorage);
  } catch {
    return null;
  }
}

function tell(further = "") {
  const right = [...judged.values()].filter(Boolean).length;
  const where = cards.length ? `Pair ${current + 1} of ${cards.length}. ` : "";
  state.textContent =
    `${where}${judged.size} judged: ${right} right, ${judged.size - right} not.` + (further ? ` ${further}` : "");
}

function show(number) {
  const card = cards[number];
  const answer = judged.get(number);
  card.classList.toggle("yes", answer === true);
  card.classList.toggle("no", answer === false);
  card.querySelector("[data-verdict]").textContent =
    answer === undefined ? "not judged" : answer ? "judged: it describes the picture" : "judged: it does not";
  for (const button of card.querySelectorAll("[data-answer]")) {
    button.setAttribute("aria-pressed", String(answer === (button.dataset.answer === "y")));
  }
}

function go(number) {
  if (!cards.length) return;
  cards[current].classList.remove("current");
  current = Math.min(Math.max(number, 0), cards.length - 1);
  cards[current].classList.add("current");
  cards[current].focus({ preventScroll: true });
  cards[current].scrollIntoView({ block: "start" });
  tell();
}

function judge(number, answer) {
  if (!cards.length) return;
  if (answer === undefined) judged.delete(number);
  else judged.set(number, answer);
  unsaved = true;
  stored((kept) => kept.setItem(place, JSON.stringify([...judged])));
  show(number);
  tell();
}

function save() {
  const judgements = [...judged]
    .sort(([one], [other]) => one - other)
    .map(([number, right]) => ({ ...pairs[number], right }));
  const text = JSON.stringify({ judgements }, null, 1) + "\n";
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = file;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  unsaved = false;
  tell(`Saved as ${file}.`);
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const actions = {
    y: () => (judge(current, true), go(current + 1)),
    n: () => (judge(current, false), go(current + 1)),
    u: () => judge(current, undefined),
    s: save,
    ArrowDown: () => go(current + 1),
    ArrowUp: () => go(current - 1),
    j: () => go(current + 1),
    k: () => go(current - 1),
  };
  const action = actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!action) return;
  event.preventDefault();
  action();
});

cards.forEach((card, number) => {
  for (const button of card.querySelectorAll("[data-answer]")) {
    button.addEventListener("click", () => {
      current = number;
      judge(number, button.dataset.answer === "y");
    });
  }
});
document.getElementById("save").addEventListener("click", save);
window.addEventListener("beforeunload", (event) => {
  if (unsaved && judged.size) event.preventDefault();
});
for (const [number, answer] of stored((kept) => JSON.parse(kept.getItem(place))) || []) {
  if (number in cards && typeof answer === "boolean") judged.set(number, answer);
}
cards.forEach((_, number) => show(number));
if (cards.length) cards[0].classList.add("current");
tell();
