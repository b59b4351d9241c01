// Roving focus: one Tab reaches the grid, arrow keys move in it, and Tab goes on into the actions of that hit.

export function prepareGrid(root) {
  for (const grid of root.querySelectorAll(".grid")) prepare(grid);
}

function prepare(grid) {
  const hits = [...grid.children];
  for (const [place, hit] of hits.entries()) reach(hit, place === 0);
  grid.addEventListener("focusin", (event) => {
    const hit = event.target.closest("li[data-hit]");
    if (hit) for (const each of hits) reach(each, each === hit);
  });
  grid.addEventListener("keydown", (event) => {
    if (!event.target.classList.contains("open") || event.altKey || event.ctrlKey || event.metaKey) return;
    const place = hits.indexOf(event.target.closest("li"));
    const columns = hits.filter((hit) => hit.offsetTop === hits[0].offsetTop).length;
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns, Home: -place, End: hits.length - 1 - place };
    if (!(event.key in steps)) return;
    event.preventDefault();
    const next = hits[place + steps[event.key]];
    next?.querySelector(".open").focus();
  });
}

function reach(hit, reachable) {
  for (const link of hit.querySelectorAll("a")) link.tabIndex = reachable ? 0 : -1;
}
