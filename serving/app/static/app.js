// Searches without loading the page anew: the server writes the results, and this puts them in their place.
import { openHit, prepareDialog } from "./dialog.js";
import { prepareGrid } from "./grid.js";
import { base, first } from "./address.js";
import { forgetPicture, keepPicture, picture, preparePictures } from "./picture.js";

const results = document.getElementById("results");
const form = document.getElementById("form");
const status = document.getElementById("status");
const words = document.body.dataset;
let running = null;

async function go(address, { push = true, stay = false } = {}) {
  const url = new URL(address, location.href);
  running?.abort();
  const mine = (running = new AbortController());
  results.classList.add("waiting");
  results.setAttribute("aria-busy", "true");
  const slow = setTimeout(() => say(words.searching), 700);
  const name = first(url.searchParams, "picture");
  const bytes = name ? picture(name) : null;
  if (push) history.pushState(null, "", url.pathname + url.search);
  try {
    const answer = await fetch(`/results${url.search}`, {
      method: bytes ? "POST" : "GET",
      body: bytes,
      headers: bytes ? { "content-type": "application/octet-stream" } : {},
      signal: mine.signal,
    });
    if (answer.status === 413) return tell(words.big);
    if (!answer.ok) return tell(words.failed);
    results.innerHTML = await answer.text(); // written by the server, which escapes what is not its own
    prepareResults();
    fillForm(url);
    say(results.querySelector("[data-say]")?.dataset.say ?? "");
    if (push && !stay) scrollTo({ top: 0, behavior: "instant" });
  } catch (error) {
    if (error.name === "AbortError") return;
    tell(words.failed);
  } finally {
    clearTimeout(slow);
    if (running === mine) { // else a later query is still waited for
      results.classList.remove("waiting");
      results.removeAttribute("aria-busy");
    }
  }
}

function tell(message) {
  const notice = document.createElement("p");
  notice.className = "notice";
  notice.textContent = message;
  results.replaceChildren(notice);
  document.body.classList.remove("answered");
  say(message);
}

function say(message) {
  status.textContent = "";
  setTimeout(() => (status.textContent = message), 60); // so that equal messages are spoken again
}

function prepareResults() {
  document.body.classList.toggle("answered", Boolean(results.querySelector(".grid")));
  prepareGrid(results);
  for (const image of results.querySelectorAll("img[data-optional]")) {
    const gone = () => image.remove();
    image.addEventListener("error", gone);
    if (image.complete && image.naturalWidth === 0 && image.src && image.loading !== "lazy") gone();
  }
  const own = results.querySelector("img[data-own]"); // the picture that is looked for, which this tab alone has
  const bytes = own && picture(first(new URL(location.href).searchParams, "picture") ?? "");
  if (bytes) {
    own.src = URL.createObjectURL(new Blob([bytes]));
    own.hidden = false;
    own.addEventListener("load", () => URL.revokeObjectURL(own.src));
  }
}

function fillForm(url) {
  for (const name of ["q", "where"]) {
    const field = form.elements[name];
    if (field) field.value = first(url.searchParams, name) ?? "";
  }
  for (const name of ["plus", "minus"]) if (form.elements[name]) form.elements[name].value = "";
  for (const link of document.querySelectorAll("a[data-language]")) {
    const there = new URL(location.href);
    there.searchParams.set("lang", link.hreflang);
    link.href = there.pathname + there.search;
  }
}

// What the form does not show, such as the ids of a query, stays; what was typed is added.
function addressOfForm() {
  const before = new URL(location.href).searchParams;
  const now = new URLSearchParams();
  const data = new FormData(form);
  for (const [name, value] of data)
    if (value && !["plus", "minus", "index", "beside"].includes(name)) now.append(name, value);
  for (const [name, value] of before)
    if (["plus", "minus", "like", "unlike", "picture", "index", "beside"].includes(base(name))) now.append(name, value);
  for (const name of ["plus", "minus"]) if (data.get(name)) now.append(name, data.get(name));
  return `/?${now}`;
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  go(addressOfForm());
});

document.addEventListener("click", (event) => {
  if (event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  const link = event.target.closest("a");
  if (!link) return;
  if (link.classList.contains("open")) {
    event.preventDefault();
    openHit(link.closest("li"));
  } else if ("go" in link.dataset) {
    event.preventDefault();
    document.getElementById("hit").close();
    const again = link.dataset.again; // a weight may be changed several times
    go(link.href, { stay: Boolean(again) }).then(() =>
      (again && results.querySelector(`[data-again="${again}"]`) || results).focus({ preventScroll: true }));
  }
});

addEventListener("popstate", () => {
  document.getElementById("hit").close();
  go(location.href, { push: false });
});

prepareDialog();
prepareResults();
preparePictures(words.pictures === "yes", async (bytes) => {
  const name = await keepPicture(bytes);
  const now = new URLSearchParams({ picture: name });
  for (const [part, value] of new URL(location.href).searchParams)
    if (["lang", "index", "beside"].includes(part)) now.append(part, value);
  form.elements.q && (form.elements.q.value = "");
  await go(`/?${now}`);
}, tell);
const name = first(new URL(location.href).searchParams, "picture");
if (name && picture(name)) go(location.href, { push: false });
else if (name) forgetPicture(name);
