"use strict";

// --- Light and dark ---

const theme = document.getElementById("theme");
const preferred = matchMedia("(prefers-color-scheme: dark)");

function dark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : preferred.matches;
}

function nameTheme() {
  theme.textContent = dark() ? "Light" : "Dark";
}

theme.hidden = false;
theme.addEventListener("click", () => {
  document.documentElement.dataset.theme = dark() ? "light" : "dark";
  nameTheme();
});
preferred.addEventListener("change", nameTheme);
nameTheme();

// --- Links to the sections ---

const links = document.querySelector("nav");
const sections = [...document.querySelectorAll("section")].filter(section => section.querySelector("h2"));
for (const [number, section] of (sections.length > 2 ? sections : []).entries()) {
  const link = document.createElement("a");
  section.id = `section-${number}`;
  link.setAttribute("href", `#${section.id}`);
  link.textContent = section.querySelector("h2").textContent;
  links.append(link);
}

// --- Tables ---

const words = new Intl.Collator(undefined, { numeric: true });

function valueOf(row, column, numeric) {
  const text = row.cells[column].textContent.trim();
  if (!numeric) return text;
  const value = parseFloat(text.replaceAll(",", ""));
  return Number.isNaN(value) ? null : value;
}

/** Sort by a column; rows without a value come last in both directions. */
function sort(table, column) {
  const heads = [...table.tHead.rows[0].cells];
  const head = heads[column];
  const numeric = head.classList.contains("number");
  const before = head.getAttribute("aria-sort");
  const descending = before ? before === "ascending" : numeric;
  const body = table.tBodies[0];
  const rows = [...body.rows].map(row => ({ row, value: valueOf(row, column, numeric) }));
  rows.sort((first, second) => {
    if (first.value === null || second.value === null) return (first.value === null) - (second.value === null);
    const order = numeric ? first.value - second.value : words.compare(first.value, second.value);
    return descending ? -order : order;
  });
  body.append(...rows.map(({ row }) => row));
  for (const each of heads) each.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", descending ? "descending" : "ascending");
}

for (const table of document.querySelectorAll("table.sortable")) {
  for (const [column, head] of [...table.tHead.rows[0].cells].entries()) {
    if (!head.textContent.trim()) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.title = "Sort by this column";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sort(table, column));
    head.append(button);
  }
}

// --- Pictures ---

const viewer = document.getElementById("viewer");
const enlargeable = [...document.querySelectorAll(".enlarge")];
let shown = 0;

function show(number) {
  shown = (number + enlargeable.length) % enlargeable.length;
  const images = viewer.querySelector(".images");
  const caption = enlargeable[shown].parentElement.querySelector("figcaption");
  images.replaceChildren(...[...enlargeable[shown].querySelectorAll("img")].map(image => image.cloneNode()));
  images.className = `images ${enlargeable[shown].parentElement.className}`;
  viewer.querySelector(".caption").replaceChildren(...(caption ? caption.cloneNode(true).childNodes : []));
  if (!viewer.open) viewer.showModal();
}

for (const [number, button] of enlargeable.entries()) button.addEventListener("click", () => show(number));
for (const [name, step] of [["previous", -1], ["next", 1]]) {
  viewer.querySelector(`.${name}`).addEventListener("click", () => show(shown + step));
}
viewer.querySelector(".close").addEventListener("click", () => viewer.close());
viewer.addEventListener("click", event => { if (event.target === viewer) viewer.close(); });
viewer.addEventListener("keydown", event => {
  if (event.key === "ArrowLeft") show(shown - 1);
  if (event.key === "ArrowRight") show(shown + 1);
});
