// Tables that sort, filter and hide columns; variants, conditions and dark colours by choice. The page has all without.
"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const make = (tag, properties) => Object.assign(document.createElement(tag), properties);
  const tool = (name) => document.getElementById(`tools-${name}`);
  const [tools, menu, search, matches] = [document.getElementById("tools"), tool("menu"), tool("search"), tool("count")];
  const KINDS = { variants: "Variant", conditions: "Condition" }; // by the button that chooses among them: a column
  const off = { variants: new Set(), conditions: new Set() };
  const hiding = document.head.appendChild(make("style", {}));

  const tables = all("main section:not(#alarms) table").map((table, number) => {
    const heads = [...table.tHead.rows[0].cells];
    const names = heads.map((head) => head.textContent);
    const column = Object.fromEntries(Object.entries(KINDS).map(([kind, head]) => [kind, names.indexOf(head)]));
    const nameIn = (row, at) => (at < 0 ? null : row.cells[at].textContent.replace(/ \(baseline\)$/, ""));
    const rows = [...table.tBodies[0].rows].map((row, place) => ({
      row, place, variants: nameIn(row, column.variants), conditions: nameIn(row, column.conditions),
    }));
    table.dataset.table = number;
    heads.forEach((head) => { head.tabIndex = 0; head.setAttribute("aria-sort", "none"); });
    const bar = make("div", { className: "tabletools" });
    const button = make("button", { type: "button", textContent: "Columns" });
    const count = make("span", {});
    bar.append(...(heads.length > 3 ? [button] : []), count);
    table.parentElement.before(bar);
    const entry = { table, number, heads, names, rows, count, hidden: new Set() };
    button.addEventListener("click", () => openMenu(button, names, entry.hidden));
    heads.forEach((head, at) => {
      head.addEventListener("click", () => sort(entry, at));
      head.addEventListener("keydown", (event) => event.key === "Enter" && sort(entry, at));
    });
    return entry;
  });
  const choices = Object.fromEntries(Object.keys(KINDS).map((kind) => [
    kind, [...new Set(tables.flatMap((t) => t.rows.map((entry) => entry[kind])))].filter(Boolean),
  ]));

  // The first number of a cell: a true minus and spaces between thousands are typography.
  const numberIn = (text) => {
    const digits = text.replace(/\u2212/g, "-").replace(/(\d)[\u00a0\u2009\u202f ](?=\d{3})/g, "$1");
    return parseFloat(digits.match(/[+-]?\d+(\.\d+)?(e[+-]?\d+)?/i)?.[0]);
  };
  const words = new Intl.Collator("en", { numeric: true });
  function sort(entry, at) {
    const head = entry.heads[at];
    const next = { none: "ascending", ascending: "descending", descending: "none" }[head.getAttribute("aria-sort")];
    entry.heads.forEach((other) => other.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", next);
    const sign = next === "descending" ? -1 : 1;
    const numeric = head.classList.contains("n");
    entry.rows.forEach((r) => {
      const text = r.row.cells[at].textContent.trim();
      r.value = numeric ? numberIn(text) : text;
      r.missing = text === "" || text === "–" || Number.isNaN(r.value); // missing values are last either way
    });
    const compare = numeric ? (a, b) => a.value - b.value : (a, b) => words.compare(a.value, b.value);
    entry.rows.sort((a, b) => a.place - b.place);
    if (next !== "none") entry.rows.sort((a, b) => a.missing - b.missing || (a.missing ? 0 : sign * compare(a, b)));
    entry.table.tBodies[0].append(...entry.rows.map((r) => r.row));
  }

  function apply() {
    const parts = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const rules = [];
    let [shown, total] = [0, 0];
    for (const entry of tables) {
      let left = 0;
      for (const r of entry.rows) {
        if (parts.length) r.text ??= [...r.row.cells].map((cell) => cell.textContent).join(" ").toLowerCase();
        const chosen = Object.keys(KINDS).every((kind) => !off[kind].has(r[kind]));
        r.row.hidden = !(chosen && parts.every((part) => r.text.includes(part)));
        left += !r.row.hidden;
      }
      shown += left;
      total += entry.rows.length;
      const text = left < entry.rows.length ? `${left} of ${entry.rows.length} rows` : "";
      entry.count.textContent = text;
      // A folded table says how many of its rows match.
      const summary = entry.table.closest("details")?.querySelector("summary");
      if (summary && text) summary.dataset.rows = text;
      else if (summary) delete summary.dataset.rows;
      entry.names.forEach((name, at) => {
        if (entry.hidden.has(name) || off.variants.has(name)) {
          rules.push(`[data-table="${entry.number}"] :is(th, td):nth-child(${at + 1})`);
        }
      });
    }
    off.variants.forEach((name) => rules.push(`svg [data-variant="${CSS.escape(name)}"]`));
    const panels = [...off.conditions].map((name) => `svg [data-condition="${CSS.escape(name)}"]`);
    const style = (selectors, what) => (selectors.length ? `${selectors.join(", ")} { ${what}; }` : "");
    // The first panel of a row has the names of all: the style sheet leaves them visible.
    hiding.textContent = style(rules, "display: none") + style(panels, "visibility: hidden");
    matches.textContent = shown < total ? `${shown} of ${total} rows` : "";
    const images = off.variants.size + off.conditions.size ? all("figure .plot > img").length : 0;
    if (images) matches.textContent += `${matches.textContent && "; "}images of figures, which show all: ${images}`;
    for (const [kind, names] of Object.entries(choices)) {
      const count = off[kind].size ? `: ${names.length - off[kind].size} of ${names.length}` : "";
      tool(kind).textContent = KINDS[kind] + "s" + count;
    }
  }

  // One menu for all buttons: names with a tick each; what has no tick is in ``without``.
  function openMenu(button, names, without) {
    const labels = names.map((name) => {
      const box = make("input", { type: "checkbox", checked: !without.has(name) });
      box.addEventListener("change", () => { without[box.checked ? "delete" : "add"](name); apply(); });
      const label = make("label", {});
      label.append(box, ` ${name}`);
      return label;
    });
    const ticks = (checked) => () => {
      labels.filter((label) => !label.hidden).forEach((label) => {
        if (label.firstChild.checked !== checked) label.firstChild.click();
      });
    };
    const filter = make("input", { type: "search", placeholder: "Search names", hidden: names.length < 12 });
    filter.addEventListener("input", () => labels.forEach((label, at) => {
      label.hidden = !names[at].toLowerCase().includes(filter.value.toLowerCase());
    }));
    const buttons = [["All", true], ["None", false]].map(([textContent, checked]) => {
      const choose = make("button", { type: "button", textContent });
      choose.addEventListener("click", ticks(checked));
      return choose;
    });
    menu.replaceChildren(filter, ...buttons, ...labels);
    menu.showPopover();
    const box = button.getBoundingClientRect();
    menu.style.left = `${Math.max(4, Math.min(box.left, innerWidth - menu.offsetWidth - 4))}px`;
    menu.style.top = `${Math.max(4, Math.min(box.bottom + 4, innerHeight - menu.offsetHeight - 4))}px`;
  }

  const root = document.documentElement, theme = tool("theme");
  const stored = (value) => { // a page from disk may have no storage
    try { return value ? localStorage.setItem("theme", value) : localStorage.getItem("theme"); } catch { return null; }
  };
  const isDark = () => (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "")) === "dark";
  function paint(value) {
    if (value) root.dataset.theme = value;
    theme.textContent = isDark() ? "Light" : "Dark";
  }
  theme.addEventListener("click", () => { const value = isDark() ? "light" : "dark"; stored(value); paint(value); });

  for (const [kind, names] of Object.entries(choices)) {
    const button = tool(kind);
    button.hidden = names.length < 2;
    button.addEventListener("click", () => openMenu(button, names, off[kind]));
  }
  search.addEventListener("input", apply);
  tools.addEventListener("submit", (event) => event.preventDefault());
  tool("reset").addEventListener("click", () => {
    search.value = "";
    [...Object.values(off), ...tables.map((entry) => entry.hidden)].forEach((names) => names.clear());
    apply();
  });
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = all("details:not([open])");
    folded.forEach((details) => { details.open = true; });
  });
  addEventListener("afterprint", () => folded.forEach((details) => { details.open = false; }));
  tools.hidden = false;
  paint(stored());
  apply();
})();
