"use strict";

// Tables: a button in every heading, the state in aria-sort; what has no value stays last either way.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    button.title = heading.title ? `${heading.title}; sorts the table` : "sorts the table";
    heading.removeAttribute("title");
    heading.append(button);
    heading.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const down = heading.getAttribute("aria-sort") === "ascending";
      headings.forEach((other) => other.setAttribute("aria-sort", "none"));
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = (row) => row.cells[column].dataset.value;
      const numeric = heading.classList.contains("number");
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
        const order = numeric ? x - y : x.localeCompare(y, "en", { numeric: true });
        return down ? -order : order;
      });
      table.tBodies[0].append(...rows);
    });
  });
}

// Charts: one tooltip, by pointer, by finger and by keyboard.
const tip = document.getElementById("tip");
let shown = null;

function show(mark) {
  if (shown && shown !== mark) hide();
  shown = mark;
  tip.textContent = mark.dataset.tip;
  tip.hidden = false;
  mark.setAttribute("aria-describedby", "tip");
  place();
}

function place() {
  // Where it stood before, there may have been no room for it.
  tip.style.left = "0";
  const anchor = (shown.querySelector(".dot, .box, .value, .cell, .cross") || shown).getBoundingClientRect();
  const size = tip.getBoundingClientRect();
  const left = Math.min(anchor.x + anchor.width / 2 - size.width / 2, innerWidth - size.width - 8);
  const above = anchor.y - size.height - 8;
  tip.style.left = `${Math.max(8, left)}px`;
  tip.style.top = `${above >= 8 ? above : anchor.bottom + 8}px`;
}

function hide() {
  if (!shown) return;
  tip.hidden = true;
  shown.removeAttribute("aria-describedby");
  shown = null;
}

for (const mark of document.querySelectorAll(".mark")) {
  for (const event of ["pointerenter", "focus", "click"]) mark.addEventListener(event, () => show(mark));
  for (const event of ["pointerleave", "blur"]) mark.addEventListener(event, hide);
}
addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
// The focus may scroll the page on its own account: the tooltip goes along.
addEventListener("scroll", () => { if (shown) place(); }, { passive: true, capture: true });

// A chart is one stop of the Tab key; within it the arrow keys go from mark to mark.
const STEPS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -Infinity, End: Infinity };
for (const chart of document.querySelectorAll(".chart")) {
  const marks = [...chart.querySelectorAll(".mark")];
  const stop = (at) => marks.forEach((mark, index) => mark.setAttribute("tabindex", index === at ? 0 : -1));
  stop(0);
  marks.forEach((mark, index) => mark.addEventListener("focus", () => stop(index)));
  chart.addEventListener("keydown", (event) => {
    const at = marks.indexOf(document.activeElement);
    if (at < 0 || !(event.key in STEPS)) return;
    event.preventDefault();
    marks[Math.max(0, Math.min(marks.length - 1, at + STEPS[event.key]))].focus();
  });
}

// Series: what was hidden stays so when a page reloads itself. A file may have no storage.
const storage = (() => { try { return sessionStorage; } catch { return null; } })();
for (const legend of document.querySelectorAll(".legend")) {
  const chart = legend.parentElement.querySelector(".chart");
  for (const button of legend.querySelectorAll("button")) {
    const key = `${chart.getAttribute("aria-label")}: ${button.textContent}`;
    const set = (on) => {
      button.setAttribute("aria-pressed", on);
      for (const series of chart.querySelectorAll(`[data-series="${button.dataset.series}"]`)) {
        series.classList.toggle("hidden", !on);
      }
    };
    set(!storage?.getItem(key));
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") !== "true";
      set(on);
      if (on) storage?.removeItem(key);
      else storage?.setItem(key, "hidden");
    });
  }
}

// A page that is served asks whether its data has changed, and loads itself again if so.
const state = document.documentElement.dataset.state;
if (state) {
  setInterval(async () => {
    try {
      const answer = await fetch("state", { cache: "no-store" });
      if (answer.ok && (await answer.text()) !== state) location.reload();
    } catch {
      document.documentElement.classList.add("ended");
    }
  }, 2000);
}
