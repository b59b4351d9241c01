// One hit at a time: picture with its regions, the sentence with its words, shares and metadata; arrow keys go on.

import { terms } from "./address.js";
import { picture } from "./picture.js";

const dialog = document.getElementById("hit");
const part = (name) => document.getElementById(`hit-${name}`);
let shown = null;

export function prepareDialog() {
  part("close").addEventListener("click", () => dialog.close());
  part("before").addEventListener("click", () => step(-1));
  part("after").addEventListener("click", () => step(1));
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("close", () => {
    const opener = shown?.querySelector(".open");
    if (opener?.isConnected) opener.focus(); // to the hit that was looked at last
    shown = null;
  });
  dialog.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: -1, ArrowRight: 1 };
    if (!(event.key in steps) || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    step(steps[event.key]);
  });
}

export function openHit(item) {
  show(item);
  if (!dialog.open) dialog.showModal();
  part("close").focus();
}

function step(by) {
  const next = by > 0 ? shown?.nextElementSibling : shown?.previousElementSibling;
  if (next) show(next);
}

function show(item) {
  shown = item;
  const hit = JSON.parse(item.dataset.hit);
  const all = item.parentElement.children;
  part("place").textContent = item.querySelector(".rank .hidden").textContent;
  part("before").disabled = item === all[0];
  part("after").disabled = item === all[all.length - 1];
  part("title").textContent = hit.caption ?? hit.id;
  part("id").textContent = hit.caption ? hit.id : "";
  part("score").replaceChildren(item.querySelector(".score").cloneNode(true));
  const image = part("picture");
  image.parentElement.parentElement.hidden = !hit.thumbnail;
  image.alt = hit.caption ?? hit.id;
  const inCard = item.querySelector(".open img");
  fit(image, inCard); // the proportions are known before the larger picture is there
  image.onload = () => fit(image, image);
  if (hit.thumbnail) image.src = `${hit.thumbnail}${hit.thumbnail.includes("?") ? "&" : "?"}size=640`;
  image.onerror = () => (image.parentElement.parentElement.hidden = true);
  part("regions").replaceChildren();
  part("regions-note").hidden = true;
  showShares(hit, item);
  showMetadata(hit.metadata);
  part("actions").replaceChildren(...[...item.querySelectorAll(".actions a")].map((link) => {
    const copy = link.cloneNode(true);
    copy.tabIndex = 0;
    return copy;
  }));
  explain(hit, item);
}

function fit(image, like) {
  if (like?.naturalWidth) image.parentElement.style.setProperty("--ratio", like.naturalWidth / like.naturalHeight);
}

function showShares(hit, item) {
  const names = [...item.querySelectorAll(".shares .label")].map((each) => each.textContent);
  bars(part("shares"), hit.shares.map((share, place) => [names[place] ?? share.term, share.share]));
}

function bars(section, rows) {
  section.hidden = !rows.length;
  const most = Math.max(...rows.map(([, share]) => Math.abs(share)), 1e-9);
  section.querySelector("div").replaceChildren(...rows.map(([name, share]) => {
    const row = document.createElement("div");
    row.className = share < 0 ? "share less" : "share";
    const label = document.createElement("span");
    label.className = "label";
    label.textContent = name;
    const amount = document.createElement("span");
    amount.className = "amount";
    amount.textContent = `${share < 0 ? "−" : "+"}${Math.abs(share).toFixed(3)}`;
    const bar = drawing("svg", { viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" });
    bar.append(drawing("rect", { class: "track", width: 100, height: 8 }));
    bar.append(drawing("rect", { class: "fill", width: Math.round((100 * Math.abs(share)) / most), height: 8 }));
    row.append(label, bar, amount);
    return row;
  }));
}

function showMetadata(metadata) {
  const list = part("metadata").querySelector("dl");
  const rows = Object.entries(metadata);
  part("metadata").hidden = !rows.length;
  list.replaceChildren(...rows.flatMap(([key, value]) => {
    const name = document.createElement("dt");
    const text = document.createElement("dd");
    name.textContent = key;
    text.textContent = Array.isArray(value) ? value.join(", ") : typeof value === "object" ? JSON.stringify(value) : String(value);
    return [name, text];
  }));
}

async function explain(hit, item) {
  part("words").hidden = true;
  const asked = terms(new URL(location.href).searchParams, picture);
  if (!asked.length) return;
  const answer = await fetch("/v1/explain", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ terms: asked, id: hit.id, index: item.closest("[data-index]").dataset.index }),
  }).catch(() => null);
  if (!answer?.ok || shown !== item) return;
  const { terms: explained, regions } = await answer.json();
  const sentences = explained.filter(({ words }) => words.length);
  const most = Math.max(...sentences.flatMap(({ words }) => words.map(({ share }) => Math.abs(share))), 1e-9);
  part("words").querySelector("div").replaceChildren(...sentences.map(({ words, weight }) => {
    const sentence = document.createElement("p");
    sentence.className = "sentence";
    if (weight < 0) sentence.append("− ");
    sentence.append(...words.flatMap(({ word, share }) => {
      const mark = document.createElement("span");
      const level = Math.max(0, Math.min(3, Math.ceil((3 * share) / most - 0.15)));
      mark.className = share < -most / 10 ? "less" : `w${level}`;
      mark.title = share.toFixed(3);
      mark.textContent = word;
      return [mark, " "];
    }));
    return sentence;
  }));
  part("words").hidden = !sentences.length;
  const best = regions.filter((region) => region.box && region.share > 0).sort((a, b) => b.share - a.share).slice(0, 3);
  part("regions-note").hidden = !best.length;
  part("regions").replaceChildren(...best.flatMap(({ box: [left, top, right, bottom] }) =>
    ["halo", ""].map((name) =>
      drawing("rect", { class: name, x: left, y: top, width: right - left, height: bottom - top }))));
}

function drawing(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}
