// Sorting and filtering of the tables of cells, and loading the page anew without losing either.
"use strict";
const CHUNK = 100, CHOICES = 60;
const collator = new Intl.Collator("en", {numeric: true});
const number = text => {
  const match = text.trim().match(/^([\d,.]+) ?(%|s|min|h|d)?$/);
  const scale = {s: 1, min: 60, h: 3600, d: 86400};
  return match ? parseFloat(match[1].replaceAll(",", "")) * (scale[match[2]] || 1) : NaN;
};

function enliven(section) {
  const list = section.querySelector(".list"), heads = [...list.querySelectorAll(".head th")];
  const names = heads.map(head => head.textContent);
  const rows = [...list.querySelectorAll("tbody tr")].map(row => ({row, texts: [...row.cells].map(cell => cell.textContent)}));
  const pattern = list.querySelector(".chunk");
  if (!pattern) return;
  const store = "mtrl page " + location.pathname + " " + section.dataset.sweep;
  const state = Object.assign({sort: -1, down: false, choice: {}, words: ""}, JSON.parse(sessionStorage.getItem(store) || "{}"));

  const show = () => {
    const words = state.words.toLowerCase().split(/\s+/).filter(Boolean);
    const shown = rows.filter(({texts}) =>
      Object.entries(state.choice).every(([name, value]) => !value || texts[names.indexOf(name)] === value) &&
      words.every(word => texts.some(text => text.toLowerCase().includes(word))));
    if (state.sort >= 0) {
      const key = one => one.texts[state.sort];
      const compare = (a, b) => {
        const x = number(key(a)), y = number(key(b));
        if (!key(a) !== !key(b)) return key(a) ? -1 : 1;  // what is empty comes last
        const order = isNaN(x) || isNaN(y) ? collator.compare(key(a), key(b)) : x - y;
        return state.down ? -order : order;
      };
      shown.sort(compare);
    }
    const chunks = [];
    for (let start = 0; start < Math.max(shown.length, 1); start += CHUNK) {
      const chunk = pattern.cloneNode(true), body = chunk.querySelector("tbody");
      body.replaceChildren(...shown.slice(start, start + CHUNK).map(one => one.row));
      chunk.style.containIntrinsicSize = "auto " + 29 * body.rows.length + "px";
      chunks.push(chunk);
    }
    list.querySelectorAll(".chunk").forEach(chunk => chunk.remove());
    list.append(...chunks);
    heads.forEach((head, place) => head.setAttribute("aria-sort", place !== state.sort ? "none" : state.down ? "descending" : "ascending"));
    heads.forEach((head, place) => { head.firstChild.textContent = names[place] + (place !== state.sort ? "" : state.down ? " ↓" : " ↑"); });
    count.textContent = shown.length === rows.length ? "" : shown.length.toLocaleString("en") + " of " + rows.length.toLocaleString("en") + " cells";
    sessionStorage.setItem(store, JSON.stringify(state));
  };

  heads.forEach((head, place) => {
    const button = document.createElement("button");
    button.textContent = names[place];
    button.addEventListener("click", () => {
      state.down = state.sort === place && !state.down;
      state.sort = place;
      show();
    });
    head.replaceChildren(button);
  });

  const filters = document.createElement("form"), count = document.createElement("span");
  filters.className = "filters";
  filters.addEventListener("submit", event => event.preventDefault());
  const label = (text, field) => { const it = document.createElement("label"); it.append(text + " ", field); filters.append(it); };
  names.forEach((name, place) => {
    if (["run", "done", "success", "curve", "heard", "note"].includes(name)) return;
    const values = [...new Set(rows.map(one => one.texts[place]))].filter(Boolean).sort(collator.compare);
    if (values.length < 2 || values.length > CHOICES) return;
    const select = document.createElement("select");
    select.append(new Option("all", ""), ...values.map(value => new Option(value, value)));
    select.value = values.includes(state.choice[name]) ? state.choice[name] : "";
    state.choice[name] = select.value;
    select.addEventListener("change", () => { state.choice[name] = select.value; show(); });
    label(name, select);
  });
  const search = document.createElement("input");
  search.type = "search";
  search.value = state.words;
  search.addEventListener("input", () => { state.words = search.value; show(); });
  label("words", search);
  filters.append(count);
  list.parentElement.before(filters);
  if (state.sort >= 0 || state.words || Object.values(state.choice).some(Boolean)) show();
}

document.querySelectorAll(".sweep").forEach(enliven);
const place = "mtrl page place " + location.pathname;
scrollTo(0, +sessionStorage.getItem(place) || 0);
addEventListener("pagehide", () => sessionStorage.setItem(place, scrollY));
const seconds = +document.currentScript.dataset.reload;
if (seconds) setInterval(() => { if (!["INPUT", "SELECT"].includes(document.activeElement.tagName)) location.reload(); }, seconds * 1000);
