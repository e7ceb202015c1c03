// The page of `distill view`. What is shown is in the address after `#`, so that every view has a link and the back
// button works. Text from models only ever becomes text nodes: nothing here parses markup, and the page's policy
// (trusted types) would refuse it.
"use strict";

const $ = (id) => document.getElementById(id);
const MATHML = "http://www.w3.org/1998/Math/MathML";
const MOST_COLUMNS = 4, MOST_VALUES = 12, DIFFERENT = 3000;
const MARKS = { correct: "✓", wrong: "✗", unparseable: "?", ungradable: "–", error: "!" };

let about;            // what the server told once
let searched = null;  // the search whose rows are in the list
let opened = "";      // the names whose texts are in the reader
let entries = [];     // the rows of the list so far
let total = 0;
let pattern = null;   // what the search found, in a text
let ranges = [], place = -1;        // matches in the reader, and which of them was gone to last
let searching = 0, opening = 0;     // numbers of the latest requests: older answers are dropped

// ---- the address

function now() {
  const given = new URLSearchParams(location.hash.slice(1));
  const chosen = Object.create(null);  // a facet may be called anything, `__proto__` too
  for (const [name, value] of given) if (name.startsWith("facet.")) (chosen[name.slice(6)] ??= []).push(value);
  return {
    q: given.get("q") ?? "", chosen, least: given.get("least") ?? "", most: given.get("most") ?? "",
    sort: given.get("sort") ?? "order", open: (given.get("open") ?? "").split(",").filter(Boolean).slice(0, MOST_COLUMNS),
    think: given.has("think"), raw: given.has("raw"), models: given.has("models"), differ: given.has("differ"),
  };
}

function searchOf(state) {
  const asked = new URLSearchParams();
  for (const name of ["q", "least", "most"]) if (state[name]) asked.set(name, state[name]);
  if (state.sort !== "order") asked.set("sort", state.sort);
  for (const [name, values] of Object.entries(state.chosen)) for (const value of values) asked.append("facet." + name, value);
  return asked;
}

function hashOf(state) {
  const given = searchOf(state);
  if (state.open.length) given.set("open", state.open.join(","));
  for (const name of ["think", "raw", "models", "differ"]) if (state[name]) given.set(name, "1");
  return "#" + given;
}

function go(change, replace = false) {
  const hash = hashOf({ ...now(), ...change });
  if (hash === (location.hash || "#")) return;
  history[replace ? "replaceState" : "pushState"](null, "", hash);
  render();
}

async function ask(what, parameters) {
  const answer = await fetch(`api/${what}?${parameters ?? ""}`);
  const told = await answer.json();
  if (!answer.ok) throw new Error(told.error);
  return told;
}

// ---- small things

function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name in node && name !== "list") node[name] = value; else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const number = (value) => value.toLocaleString("en");
const lengthOf = (entry) => entry.length === null ? "" : `${number(entry.length)} ${about.unit}`;

function verdictOf(values) {
  const value = values.verdict;
  return value ? make("span", { className: `verdict ${value}` }, `${MARKS[value] ?? ""} ${value}`) : null;
}

function whoOf(values) {
  const told = [values.model, values.arm, values.seed && `seed ${values.seed}`].filter(Boolean);
  return told.join(" · ") || "answer";
}

const decisionsOf = (values) => Object.entries(values).filter(([name]) => name.startsWith("decision")).map(([, value]) => value);

// ---- the list

async function search(state) {
  const mine = ++searching;
  $("count").classList.remove("fault");
  try {
    const found = await ask("search", searchOf(state));
    if (mine !== searching) return;
    entries = []; total = found.total;
    pattern = found.pattern ? new RegExp(found.pattern, "giu") : null;
    $("list").replaceChildren();
    $("results").scrollTop = 0;
    addRows(found.entries);
    showFacets(found.facets, state);
    const counted = `${number(total)} of ${number(about.count)} answers`;
    $("count").textContent = found.complete ? counted : `at least ${counted}: the search was stopped after two seconds`;
    if (!total) $("list").append(make("li", { className: "nothing" }, "Nothing matches all of this. Take a word or a filter away."));
  } catch (error) {
    if (mine !== searching) return;
    fault(error);
  }
}

function fault(error) {
  $("count").classList.add("fault");
  $("count").textContent = error instanceof TypeError ? "The server does not answer: is `distill view` still running?" : error.message;
}

async function more() {
  const state = now(), mine = searching, asked = searchOf(state);
  if (!entries.length || entries.length >= total) return;
  asked.set("after", entries.at(-1).name);
  try {
    const found = await ask("search", asked);
    if (mine === searching && found.start === entries.length) addRows(found.entries);
  } catch (error) { fault(error); }
}

function addRows(found) {
  entries.push(...found);
  $("list").append(...found.map(row));
  $("more").hidden = entries.length >= total;
  $("more").textContent = `More (${number(entries.length)} of ${number(total)})`;
  markCurrent();
  highlight();
}

function row(entry) {
  const { task, level, domain } = entry.values;
  const facts = [...decisionsOf(entry.values).slice(0, 1), task, domain, level && `level ${level}`].filter(Boolean).join(" · ");
  const link = make("a", { href: hashOf({ ...now(), open: [entry.name] }), "data-name": entry.name },
    make("span", { className: "facts" }, verdictOf(entry.values), make("span", {}, whoOf(entry.values)), make("span", { className: "end" }, lengthOf(entry))),
    make("span", { className: "text", dir: "auto" }, entry.problem || "(the file has no problem text)"),
    entry.snippet ? make("span", { className: "snippet", dir: "auto" }, `${entry.snippet.where}: ${entry.snippet.text}`) : null,
    facts ? make("span", { className: "facts" }, facts) : null);
  const beside = make("button", { type: "button", className: "beside", title: "Open beside what is open", "data-beside": entry.name }, "beside");
  return make("li", {}, link, beside);
}

function markCurrent() {
  const open = new Set(now().open);
  for (const link of $("list").querySelectorAll("a")) {
    if (open.has(link.dataset.name)) link.setAttribute("aria-current", "true"); else link.removeAttribute("aria-current");
  }
}

async function step(by) {
  const state = now();
  const at = entries.findIndex((entry) => entry.name === state.open.at(-1));
  const next = at < 0 ? 0 : at + by;
  if (next >= entries.length) await more();
  if (!entries[next]) return;
  go({ open: [...state.open.slice(0, -1).filter((name) => name !== entries[next].name), entries[next].name] }, true);
  $("list").children[next].querySelector("a").scrollIntoView({ block: "nearest" });
}

// ---- filters

const unfolded = new Set(["origin", "model", "verdict", "decision", "task"]);

function showFacets(counts, state) {
  const panels = [];
  for (const { name, label } of about.facets) {
    const chosen = new Set(state.chosen[name] ?? []);
    const values = [...counts[name].values];
    for (const value of chosen) if (!values.some(([other]) => other === value)) values.push([value, 0]);
    if (!values.length) continue;
    values.sort((a, b) => chosen.has(b[0]) - chosen.has(a[0]) || b[1] - a[1] || a[0].localeCompare(b[0], "en", { numeric: true }));
    const boxes = values.slice(0, Math.max(MOST_VALUES, chosen.size)).map(([value, count]) => make("label", { className: value ? "" : "none" },
      make("input", { type: "checkbox", checked: chosen.has(value), name, value }), make("span", {}, value || "none"), make("b", {}, number(count))));
    const left = values.length - boxes.length + counts[name].rarer;
    const open = unfolded.has(name) || chosen.size > 0;
    panels.push(make("details", { open, "data-facet": name }, make("summary", {}, label), ...boxes,
      left > 0 ? make("p", {}, `${number(left)} rarer values; narrow the search to see them`) : null));
  }
  const focused = document.activeElement;
  const again = focused?.closest("#facets") && focused.type === "checkbox" ? [focused.name, focused.value] : null;
  $("facets").replaceChildren(...panels);
  if (again) [...$("facets").querySelectorAll("input")].find((box) => box.name === again[0] && box.value === again[1])?.focus();
  const active = Object.values(state.chosen).filter((values) => values.length).length + Boolean(state.least || state.most);
  $("chosen").textContent = active ? ` (${active})` : "";
  $("clear").hidden = !active;
}

function choose(box) {
  const { chosen } = now();
  const values = new Set(chosen[box.name] ?? []);
  if (box.checked) values.add(box.value); else values.delete(box.value);
  go({ chosen: { ...chosen, [box.name]: [...values] } });
}

// ---- text

function mathNode([tag, attributes, children]) {
  const node = document.createElementNS(MATHML, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children.map((child) => typeof child === "string" ? child : mathNode(child)));
  return node;
}

function partNode(part) {
  if ("text" in part) return part.text;
  if ("strong" in part) return make("strong", {}, part.strong);
  if ("code" in part) return make("code", {}, part.code);
  const node = part.tree ? mathNode(part.tree) : make("code", { title: "not shown as maths" }, part.math);
  return part.display ? make("span", { className: "formula" }, node) : node;
}

function blockNode(block) {
  if (block.kind === "code") return make("pre", { tabIndex: 0 }, block.language ? make("span", { className: "lang" }, block.language) : null, make("code", {}, block.text));
  return make(block.kind === "heading" ? "h3" : "p", { dir: "auto" }, ...block.parts.map(partNode));
}

const prose = (blocks, className = "") => make("div", { className: `prose ${className}` },
  ...(blocks.length ? blocks.map(blockNode) : [make("p", { className: "empty" }, "empty")]));

const SPECIAL = /(<\|[^|<>\s]{1,60}\|>|<｜[^｜<>]{1,60}｜>|<\/?[A-Za-z_]{1,20}>)|([\u0000-\u0008\u000B-\u001F\u007F-\u009F\u00AD\u200B-\u200F\u2028-\u202E\u2060-\u2069\uFEFF])/gu;

function rawNode(text) {
  const node = make("pre", { className: "raw", tabIndex: 0 });
  let from = 0;
  for (const found of text.matchAll(SPECIAL)) {
    node.append(text.slice(from, found.index));
    if (found[1]) node.append(make("span", { className: "token" }, found[1]));
    else node.append(make("span", { className: "unseen-char" }, `[U+${found[2].codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}]`));
    from = found.index + found[0].length;
  }
  node.append(text.slice(from));
  return node;
}

function highlight() {
  if (!CSS.highlights) return;
  CSS.highlights.delete("found");
  ranges = [];
  if (!pattern) return;
  const all = [];
  for (const root of [...$("list").querySelectorAll(".text, .snippet"), ...$("reader").querySelectorAll(".prose, pre.raw")]) {
    const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      for (const found of walker.currentNode.data.matchAll(pattern)) {
        if (!found[0]) continue;
        const range = new StaticRange({ startContainer: walker.currentNode, startOffset: found.index, endContainer: walker.currentNode, endOffset: found.index + found[0].length });
        all.push(range);
        if ($("reader").contains(root)) ranges.push(range);
      }
    }
  }
  CSS.highlights.set("found", new Highlight(...all));
}

function nextMatch() {
  if (!ranges.length) return;
  place = (place + 1) % ranges.length;
  ranges[place].startContainer.parentElement.scrollIntoView({ block: "center" });
}

// ---- the reader

async function showReader(state) {
  const mine = ++opening;
  document.body.classList.toggle("reading", state.open.length > 0);
  markCurrent();
  if (!state.open.length) { $("reader").replaceChildren(welcome()); return; }
  try {
    const first = await ask("entry", new URLSearchParams({ name: state.open.at(-1) }));
    const names = state.models ? eachModel(first) : state.open;
    const found = await Promise.all(names.map((name) => name === first.name ? first : ask("entry", new URLSearchParams({ name }))));
    const texts = await Promise.all(found.map(async (entry) => {
      const name = new URLSearchParams({ name: entry.name });
      const raw = state.raw || (state.differ && found.length === 2) ? await ask("raw", name) : null;
      return { raw, thinking: state.think && entry.thinking !== null ? (await ask("thinking", name)).blocks : null };
    }));
    if (mine !== opening) return;
    const same = found.every((entry) => entry.problem.id === first.problem.id);
    const different = state.differ && found.length === 2 ? differences(texts[0].raw.parts, texts[1].raw.parts) : null;
    const columns = found.map((entry, i) => column(entry, texts[i], state, { same, many: found.length > 1, different: different?.[i] }));
    $("reader").replaceChildren(tools(state, first, found),
      same ? problem(first) : "", different === undefined ? make("p", { className: "label" }, "Too different to compare word by word.") : "",
      make("div", { className: found.length > 1 ? "columns" : "columns one", tabIndex: found.length > 1 ? 0 : -1 }, ...columns), siblings(first, found, state));
    if (opened !== state.open.join()) $("reader").scrollTop = 0;
    opened = state.open.join();
    place = -1;
    highlight();
  } catch (error) {
    if (mine === opening) $("reader").replaceChildren(tools(state, null, []), make("p", { className: "welcome", role: "alert" }, error.message));
  }
}

/** One answer of each model to the problem of `entry`, that entry itself among them. */
function eachModel(entry) {
  const by = new Map();
  for (const answer of entry.answers) {
    const who = whoOf(answer.values) + (answer.values.task ?? "");
    if (!by.has(who) || answer.name === entry.name) by.set(who, answer.name);
  }
  const names = [...by.values()].slice(0, MOST_COLUMNS);
  return names.includes(entry.name) ? names : [entry.name, ...names.slice(1)];
}

function welcome() {
  return make("div", { className: "welcome" }, make("p", {}, make("strong", {}, "Choose an answer to read it."), " Or press ", make("kbd", {}, "j"),
    " to read one after the other, ", make("kbd", {}, "/"), " to search, ", make("kbd", {}, "?"), " for more."));
}

function tools(state, first, found) {
  const toggle = (name, label, key) => make("button", { type: "button", "aria-pressed": String(state[name]), "data-toggle": name, title: `${label} (${key})` }, label);
  return make("div", { className: "tools" }, make("a", { className: "back", href: hashOf({ ...state, open: [] }) }, "‹ Results"),
    toggle("think", "Thinking open", "t"), toggle("raw", "Raw", "r"),
    first && first.answers.length > 1 ? toggle("models", "Models side by side", "m") : null,
    found.length === 2 ? toggle("differ", "Differences", "d") : null);
}

function problem(entry) {
  return make("section", { className: "problem", "aria-label": "Problem" }, make("h2", { className: "label" }, "Problem"), prose(entry.problem.blocks),
    entry.problem.gold === null ? null : make("p", { className: "gold" }, "gold answer ", make("b", { dir: "auto" }, partNode(entry.problem.gold))));
}

function column(entry, texts, state, { same, many, different }) {
  const close = many ? make("button", { type: "button", "data-close": entry.name, "aria-label": `Close ${whoOf(entry.values)}` }, "×") : null;
  const link = make("button", { type: "button", "data-link": entry.name, title: "Copy a link to this answer" }, "Link");
  const sub = [...decisionsOf(entry.values), entry.values.reason, entry.values.task, lengthOf(entry)].filter(Boolean).join(" · ");
  const node = make("article", { className: "column", "data-name": entry.name, "aria-label": whoOf(entry.values) },
    make("header", {}, make("h2", {}, whoOf(entry.values), " ", verdictOf(entry.values) ?? ""), make("span", { className: "tail" }, link, close), make("p", { className: "sub" }, sub)));
  const part = (...children) => node.append(make("div", { className: "part" }, ...children));
  if (!same) part(problem(entry));
  if (different) part(make("pre", { className: "raw", tabIndex: 0 }, ...different));
  else if (state.raw) part(make("h3", { className: "label" }, texts.raw.text ? "As the model gave it" : "Thinking and answer; the record keeps no raw text"), rawNode(texts.raw.text || texts.raw.parts));
  else {
    if (entry.thinking !== null) part(fold(entry, texts.thinking));
    part(make("h3", { className: "label" }, "Answer"), prose(entry.answer));
  }
  part(make("details", { className: "fold" }, make("summary", {}, "Details"),
    make("dl", { className: "notes" }, ...entry.notes.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", { dir: "auto" }, value))))));
  return node;
}

function fold(entry, blocks) {
  const node = make("details", { className: "fold", open: blocks !== null }, make("summary", {}, `Thinking, ${number(entry.thinking)} characters`));
  if (blocks) node.append(prose(blocks, "thought"));
  else node.addEventListener("toggle", async () => {
    if (!node.open || node.children.length > 1) return;
    try { node.append(prose((await ask("thinking", new URLSearchParams({ name: entry.name }))).blocks, "thought")); highlight(); }
    catch (error) { fault(error); }
  });
  return node;
}

function siblings(first, found, state) {
  if (first.answers.length < 2) return "";
  const open = new Set(found.map((entry) => entry.name));
  const button = ({ name, values }) => make("li", {}, make("button", { type: "button", "aria-pressed": String(open.has(name)), "data-sibling": name },
    whoOf(values), " ", verdictOf(values) ?? ""));
  return make("section", { className: "siblings", "aria-label": "All answers to this problem" },
    make("h2", { className: "label" }, `${number(first.answers.length)} answers to this problem; choose up to ${MOST_COLUMNS} to read side by side`),
    make("ul", {}, ...first.answers.map(button)));
}

function toggleColumn(name) {
  const there = [...$("reader").querySelectorAll("article")].map((node) => node.dataset.name);
  const open = there.includes(name) ? there.filter((other) => other !== name) : [...there, name].slice(-MOST_COLUMNS);
  go({ open: open.length ? open : there, models: false });
}

// ---- differences, word by word

/** Two lists of nodes with what only one text has marked; undefined where more than `DIFFERENT` words differ (Myers 1986). */
function differences(left, right) {
  const a = left.match(/\s+|[\p{L}\p{N}]+|[^\s\p{L}\p{N}]/gu) ?? [], b = right.match(/\s+|[\p{L}\p{N}]+|[^\s\p{L}\p{N}]/gu) ?? [];
  const most = Math.min(a.length + b.length, DIFFERENT), offset = most + 1;
  const furthest = new Int32Array(2 * most + 3), steps = [];
  for (let d = 0; d <= most; d++) {
    for (let k = -d; k <= d; k += 2) {
      let x = k === -d || (k !== d && furthest[offset + k - 1] < furthest[offset + k + 1]) ? furthest[offset + k + 1] : furthest[offset + k - 1] + 1;
      while (x < a.length && x - k < b.length && a[x] === b[x - k]) x++;
      furthest[offset + k] = x;
      if (x >= a.length && x - k >= b.length) return marked(a, b, steps, d, offset);
    }
    steps.push(furthest.slice(offset - d, offset + d + 1));
  }
  return undefined;
}

function marked(a, b, steps, d, offset) {
  const gone = new Uint8Array(a.length), added = new Uint8Array(b.length);
  for (let x = a.length, y = b.length; d > 0; d--) {
    const before = steps[d - 1], k = x - y, at = (diagonal) => before[diagonal + d - 1] ?? -1;
    const down = k === -d || (k !== d && at(k - 1) < at(k + 1)), from = down ? k + 1 : k - 1;
    const startX = at(from), startY = startX - from;
    if (down) added[startY] = 1; else gone[startX] = 1;
    x = startX; y = startY;
  }
  return [runs(a, gone, "del"), runs(b, added, "ins")];
}

function runs(words, flags, tag) {
  const nodes = [];
  for (let i = 0, start = 0; i <= words.length; i++) {
    if (i < words.length && i > start && flags[i] === flags[start] || i === start && i < words.length) continue;
    const text = words.slice(start, i).join("");
    if (text) nodes.push(flags[start] ? make(tag, {}, text) : text);
    start = i;
  }
  return nodes;
}

// ---- all together

function render() {
  const state = now(), asked = searchOf(state).toString();
  if ($("words") !== document.activeElement) $("words").value = state.q;
  $("least").value = state.least;
  $("most").value = state.most;
  $("sort").value = state.sort;
  if (asked !== searched) search(state);
  else for (const link of $("list").querySelectorAll("a")) link.href = hashOf({ ...state, open: [link.dataset.name] });
  searched = asked;
  showReader(state);
}

let typing;
$("words").addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(() => go({ q: $("words").value.trim() }, true), 250); });
$("form").addEventListener("submit", (event) => { event.preventDefault(); clearTimeout(typing); go({ q: $("words").value.trim() }); });
$("sort").addEventListener("change", () => go({ sort: $("sort").value }));
$("least").addEventListener("change", () => go({ least: $("least").value }));
$("most").addEventListener("change", () => go({ most: $("most").value }));
$("clear").addEventListener("click", () => go({ chosen: {}, least: "", most: "" }));
$("more").addEventListener("click", more);
$("facets").addEventListener("change", (event) => choose(event.target));
$("facets").addEventListener("toggle", (event) => {
  const name = event.target.dataset.facet;
  if (event.target.open) unfolded.add(name); else unfolded.delete(name);
}, true);
$("filters-button").addEventListener("click", () => {
  $("filters-button").setAttribute("aria-expanded", String($("filters").classList.toggle("open")));
});
$("help-button").addEventListener("click", () => $("help").showModal());
$("skip").addEventListener("click", (event) => { event.preventDefault(); $("reader").focus(); });
$("list").addEventListener("click", (event) => {
  const name = event.target.dataset.beside;
  if (name) go({ open: [...now().open.filter((other) => other !== name).slice(1 - MOST_COLUMNS), name], models: false });
});
$("reader").addEventListener("click", async (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  const { toggle, sibling, close, link } = button.dataset;
  if (toggle) go({ [toggle]: !now()[toggle] }, true);
  if (sibling || close) toggleColumn(sibling ?? close);
  if (link) {
    const address = new URL(hashOf({ ...now(), open: [link], models: false }), location.href).href;
    try { await navigator.clipboard.writeText(address); button.textContent = "Copied"; }
    catch { go({ open: [link], models: false }); }
  }
});
new IntersectionObserver((seen) => { if (seen.some((item) => item.isIntersecting)) more(); }, { root: $("results"), rootMargin: "400px" }).observe($("more"));
addEventListener("hashchange", render);
addEventListener("popstate", render);
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
  const field = event.target.closest("input, select, textarea");
  if (event.key === "Escape") {
    if ($("filters").classList.contains("open")) $("filters-button").click();
    else if (field) field.blur();
    else if (now().open.length) go({ open: [] });
    return;
  }
  if (field && field.type !== "checkbox") return;
  const toggles = { t: "think", r: "raw", m: "models", d: "differ" };
  const actions = { j: () => step(1), k: () => step(-1), "/": () => $("words").focus(), n: nextMatch, "?": () => $("help").showModal() };
  const action = actions[event.key] ?? (toggles[event.key] && (() => go({ [toggles[event.key]]: !now()[toggles[event.key]] }, true)));
  if (action) { event.preventDefault(); action(); }
});

(async () => {
  try {
    about = await ask("about");
    document.title = `${about.title} · distill view`;
    $("title").textContent = about.title;
    $("most").placeholder = number(about.longest);
    $("unit").textContent = `Length, ${about.unit}`;
    render();
  } catch (error) { fault(error); }
})();
