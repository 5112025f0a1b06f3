/* The page: reads the results embedded in this file and shows them. Nothing is loaded from anywhere.
   Text of the results (layer names, captions) is untrusted: it reaches the page by textContent alone. */
"use strict";
(() => {
  const results = JSON.parse(document.getElementById("results").textContent);
  const specs = JSON.parse(document.getElementById("charts").textContent);
  const STORY = ["initialised", "trained", "in-loop", "one-shot"];
  const { components: COMPONENTS, strategies: STRATEGIES } = specs; // the words of the charts
  const $ = (id) => document.getElementById(id);
  const calm = matchMedia("(prefers-reduced-motion: reduce)");

  // ---------------------------------------------------------------- words and elements
  const count = (n) => n.toLocaleString("en-US");
  const number = (x) => (x === 0 ? "0" : String(Number(x.toPrecision(3)))).replace("-", "−");
  /** A share in print, never rounded to 0 or 100 when it is not; the twin of style.percent. */
  function percent(share, digits = 1) {
    const rounded = (100 * share).toFixed(digits), step = 10 ** -digits;
    if (share > 0 && Number(rounded) === 0) return `< ${step.toFixed(digits)} %`;
    if (share < 1 && Number(rounded) === 100) return `> ${(100 - step).toFixed(digits)} %`;
    return `${rounded} %`;
  }
  const ratio = (part, whole) => (whole ? part / whole : 0);
  const sigmaWord = (text) => (text || "").replace("sigma", "σ");
  const range = (a) => `${percent(a.low)} to ${percent(a.high)}`;
  const interval = (a) => `n = ${count(a.n)}, ${range(a)}`;

  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children.map((child) => (child instanceof Node ? child : document.createTextNode(String(child)))));
    return element;
  }
  const term = (name, ...value) => make("div", {}, make("dt", {}, name), make("dd", {}, ...value));

  function options(select, pairs) {
    select.replaceChildren(...pairs.map(([value, text]) => make("option", { value }, text)));
  }

  /** A section that has nothing to show goes, and so does the way to it. */
  function drop(id) {
    $(id).remove();
    document.querySelector(`nav a[href="#${id}"]`)?.remove();
  }

  // ---------------------------------------------------------------- exact counts from the grids
  const layers = results.layers;
  const isPrunable = (layer) => layer.prunable !== false; // results that do not say it prune every layer they list
  // Maps, not objects: a layer may be called __proto__.
  const stages = new Map(results.stages.map((s) => [s.id, { ...s, layers: new Map(Object.entries(s.layers)) }]));
  const gridOf = (stageId, name, unit) => stages.get(stageId).layers.get(name)[unit + "_grid"];

  const sums = new WeakMap(); // grid -> running totals, so that a drag costs nothing
  function running(grid) {
    if (!sums.has(grid)) {
      const totals = [grid.n_zero];
      grid.positive.forEach((n, k) => totals.push(totals[k] + n + grid.negative[k]));
      sums.set(grid, totals);
    }
    return sums.get(grid);
  }
  /** #{ |w| <= step * edge }, exactly. */
  const removed = (grid, edge) => running(grid)[Math.min(edge, grid.positive.length)];
  const sizeOf = (grid) => running(grid)[grid.positive.length];
  const lastEdge = (grid) => grid.positive.length - (grid.open ? 1 : 0);
  function reach(grid, share) {
    const totals = running(grid);
    return grid.step * totals.findIndex((n) => n >= Math.ceil(share * sizeOf(grid)));
  }

  const everyGrid = (unit) => [...stages.values()].flatMap((s) => [...s.layers.values()].map((l) => l[unit + "_grid"]));
  /** The last edge of the slider: the whole range, at most 5 sigma, and never inside an open last bin. */
  const maxEdge = Object.fromEntries(["sigma", "absolute"].map((unit) => {
    const grids = everyGrid(unit), open = grids.filter((g) => g.open).map(lastEdge);
    const most = Math.max(1, ...grids.map(lastEdge));
    return [unit, Math.min(unit === "sigma" ? 100 : most, most, ...open)];
  }));
  const absoluteStep = everyGrid("absolute")[0].step;
  const unitStep = (unit) => (unit === "sigma" ? 0.05 : absoluteStep);

  /** Bars about `wanted` wide, each split into what tau (edge) removes and what stays. No bar crosses the
      edge `anchor`; the bars beside zero may then be narrower. */
  function barsOf(grid, wanted, limit, edge, floor, anchor = 0) {
    const merge = Math.max(1, Math.round(wanted / grid.step)), first = anchor % merge, rows = [];
    const starts = first ? [0] : [];
    for (let k = first; k < grid.positive.length; k += merge) starts.push(k);
    let top = 0, drawn = 0;
    for (const [side, sign] of [["negative", -1], ["positive", 1]]) {
      for (const k of starts) {
        const end = k < first ? first : k + merge, near = sign * grid.step * k, far = sign * grid.step * end;
        if (Math.abs(far) > limit * (1 + 1e-9)) break;
        let gone = 0, kept = 0;
        for (let j = k; j < Math.min(end, grid[side].length); j += 1) {
          if (j < edge) gone += grid[side][j]; else kept += grid[side][j];
        }
        const x0 = Math.min(near, far), x1 = Math.max(near, far);
        if (gone) rows.push({ x0, x1, y0: floor, y1: gone, part: "removed" });
        if (kept) rows.push({ x0, x1, y0: gone || floor, y1: gone + kept, part: "kept" });
        top = Math.max(top, gone + kept);
        drawn += gone + kept;
      }
    }
    return { rows, top, beyond: sizeOf(grid) - grid.n_zero - drawn };
  }
  const barWidth = (n, limit) => limit / Math.min(60, Math.max(14, Math.round(1.9 * Math.cbrt(n))));

  /** One weight axis per layer, the same for every stage; the stage at an absolute tau does not stretch it. */
  function axisOf(name) {
    const shared = [...stages.values()].filter((s) => s.id !== "absolute" || stages.size === 1);
    const limit = Math.max(...shared.map((s) => reach(s.layers.get(name).sigma_grid, 0.995))) || 1;
    const taus = [...stages.values()].map((s) => s.layers.get(name).tau).filter((tau) => tau !== null && tau <= 1.4 * limit);
    return 1.04 * Math.max(limit, ...taus);
  }

  // ---------------------------------------------------------------- charts
  /** A Vega chart in a box. show(signals, data) replaces what it holds; the latest call wins. */
  function chartIn(host, specName) {
    let view = null, waiting = null;
    const show = (signals, data) => {
      if (!view) { waiting = [signals, data]; return; }
      for (const [key, value] of Object.entries(signals)) view.signal(key, value);
      for (const [key, rows] of Object.entries(data)) view.data(key, rows);
      view.runAsync();
    };
    host.setAttribute("role", "img");
    const fit = () => { if (view && host.clientWidth) view.width(host.clientWidth).runAsync(); };
    const inner = make("div");
    host.replaceChildren(inner);
    // ast: expressions are interpreted, never compiled, so the page needs no eval.
    window.vegaEmbed(inner, structuredClone(specs[specName]), { mode: "vega", renderer: "svg", actions: false, ast: true, tooltip: false, hover: false, logLevel: 1 })
      .then((embedded) => {
        view = embedded.view;
        view.width(host.clientWidth);
        if (waiting) show(...waiting); else view.runAsync();
        new ResizeObserver(fit).observe(host);
      });
    return { show, describe: (text) => host.setAttribute("aria-label", text), drop: () => view && view.finalize() };
  }

  function mixInto(host, parts) {
    host.replaceChildren(...parts.map(([kind, share]) => {
      const bar = make("i", { class: kind });
      bar.style.width = `${100 * share}%`;
      return bar;
    }));
  }

  // ---------------------------------------------------------------- opening
  function opening() {
    const trained = stages.get("trained"), once = stages.get("one-shot"), loop = stages.get("in-loop");
    const figures = $("figures");
    const accuracy = (title, stage) => stage && figures.append(term(title, percent(stage.accuracy.test.value), make("small", {}, interval(stage.accuracy.test))));
    accuracy("Test accuracy, dense", trained);
    accuracy("Pruned in the loop", loop);
    accuracy("Pruned once", once);
    accuracy("Pruned once, fine-tuned", stages.get("fine-tuned"));
    if (once) figures.append(term("Sparsity, once / in the loop", `${percent(once.sparsity)} / ${loop ? percent(loop.sparsity) : "–"}`, make("small", {}, `asked: ${results.tau.text.includes("percent") ? "" : "τ = "}${sigmaWord(results.tau.text)}`)));
    figures.append(term("Seed shown", trained ? trained.seed : results.seeds[0], make("small", {}, `of seeds ${results.seeds.join(", ")}`)));

    STORY.filter((id) => stages.has(id)).forEach((id, place) => {
      const stage = stages.get(id), card = make("article", { class: "card" });
      card.append(make("h3", {}, make("span", {}, place + 1), stage.title));
      card.append(make("p", { class: "result" }, make("b", {}, percent(stage.accuracy.test.value)), " test accuracy"));
      $("glance").append(card);
      for (const [component, label] of Object.entries(COMPONENTS)) {
        const name = results.model.tracked[component], layer = stage.layers.get(name);
        const limit = axisOf(name), share = layer.n_zero / layer.n;
        const host = make("div", { class: "chart mini" }), mix = make("div", { class: "mix" });
        card.append(make("p", { class: "part" }, make("span", {}, label), layer.n_zero ? make("b", {}, `${percent(share)} exactly zero`) : make("span", {}, "no exact zeros")));
        card.append(host, mix);
        mixInto(mix, [["zero", share]]);
        const chart = chartIn(host, "mini");
        const wanted = 1.5 * barWidth(layer.n, limit), grid = layer.absolute_grid.step <= wanted ? layer.absolute_grid : layer.sigma_grid;
        const { rows, top } = barsOf(grid, wanted, limit, 0, 0, layer.tau === null ? 0 : Math.floor(layer.tau / grid.step + 1e-9));
        const tau = layer.tau !== null && layer.tau <= limit ? layer.tau : null;
        chart.describe(`${label}, ${stage.title}: sigma ${number(layer.sigma)}, ${percent(share)} exactly zero.`);
        chart.show({ x_max: limit, y_max: 1.08 * (top || 1) }, {
          bars: rows, ghost: [], zero: layer.n_zero ? [{ x: 0 }] : [],
          band: layer.tau === null ? [] : [{ x0: -layer.tau, x1: layer.tau }],
          taus: tau === null ? [] : [{ x: -tau }, { x: tau }],
        });
      }
    });
  }

  // ---------------------------------------------------------------- explore
  const state = { stage: "", compare: "", layer: 0, unit: "sigma", edge: 0, log: false };
  const nameNow = () => layers[state.layer].name;
  const histogramName = () => (state.log ? "histogram_log" : "histogram");
  const tauWord = (edge, unit) => (unit === "sigma" ? `${(edge * 0.05).toFixed(2)}σ` : number(absoluteStep * edge));
  let panels = [];

  function makePanel(suffix) {
    const box = make("article", { class: "panel" });
    const title = make("h3"), caption = make("p", { class: "caption" });
    const mix = make("div", { class: "mix" }), legend = make("ul", { class: "legend" });
    const host = make("div", { class: "chart tall" }), beyond = make("p", { class: "note" });
    const sweepTitle = make("h4"), sweepHost = make("div", { class: "chart low" });
    const layerTerm = make("dt"), layerOut = make("dd", { "data-testid": "removed-layer" + suffix });
    const totalOut = make("dd", { "data-testid": "removed-total" + suffix });
    const accuracyOut = make("dd", { "data-testid": "accuracy" + suffix });
    const readout = make("dl", { class: "readout" },
      make("div", {}, layerTerm, layerOut),
      make("div", {}, make("dt", {}, "Removed of all prunable weights"), totalOut),
      make("div", {}, make("dt", {}, "Validation accuracy at this τ"), accuracyOut));
    box.append(title, caption, mix, legend, host, beyond, readout, sweepTitle, sweepHost);
    $("panels").append(box);
    return { box, title, caption, mix, legend, host, beyond, sweepTitle, sweepHost, layerTerm, layerOut, totalOut, accuracyOut,
      chart: chartIn(host, histogramName()), sweep: chartIn(sweepHost, "accuracy") };
  }

  function totalRemoved(stageId) {
    let gone = 0, all = 0;
    for (const { name } of layers.filter(isPrunable)) {
      const grid = gridOf(stageId, name, state.unit);
      gone += removed(grid, state.edge);
      all += sizeOf(grid);
    }
    return [gone, all];
  }

  function share(element, gone, all) {
    element.dataset.count = gone;
    element.dataset.n = all;
    element.replaceChildren(percent(ratio(gone, all)), make("small", {}, `${count(gone)} of ${count(all)}`));
  }

  function sayAccuracy(element, stage) {
    const points = stage.sweep[state.unit] || [];
    const exact = points.find((point) => point.edge === state.edge);
    element.classList.toggle("unmeasured", !exact);
    element.dataset.measured = exact ? "true" : "false";
    if (exact) {
      element.replaceChildren(percent(exact.accuracy), make("small", {}, `measured: ${interval({ n: exact.n, low: exact.low, high: exact.high })}`));
      return `accuracy ${percent(exact.accuracy)}, measured`;
    }
    const nearest = points.reduce((best, p) => (!best || Math.abs(p.edge - state.edge) < Math.abs(best.edge - state.edge) ? p : best), null);
    element.replaceChildren("not measured at this tau");
    if (nearest) {
      const go = make("button", { type: "button", class: "link" }, `${tauWord(nearest.edge, state.unit)}`);
      go.addEventListener("click", () => { state.edge = nearest.edge; update(); $("tau").focus(); });
      element.append(make("small", {}, "nearest measured: ", go, ` gave ${percent(nearest.accuracy)}`));
    }
    return "accuracy not measured at this threshold";
  }

  function update() {
    const name = nameNow(), unit = state.unit;
    state.edge = Math.min(Math.max(0, state.edge), maxEdge[unit]);
    const shown = [state.stage, ...(state.compare ? [state.compare] : [])];
    while (panels.length < shown.length) panels.push(makePanel(panels.length ? "-compare" : ""));
    while (panels.length > shown.length) { const gone = panels.pop(); gone.chart.drop(); gone.sweep.drop(); gone.box.remove(); }
    $("panels").classList.toggle("two", shown.length === 2);

    const first = gridOf(state.stage, name, unit);
    const tau = first.step * state.edge;
    const slider = $("tau"), box = $("tau-number"), out = $("tau-value");
    slider.max = maxEdge[unit];
    slider.value = state.edge;
    slider.setAttribute("aria-valuetext", `${tauWord(state.edge, unit)}, |w| up to ${number(tau)} in this layer`);
    box.step = unitStep(unit);
    box.max = unitStep(unit) * maxEdge[unit];
    box.value = String(Number((unitStep(unit) * state.edge).toPrecision(10)));
    $("tau-suffix").textContent = unit === "sigma" ? "σ" : "|w|";
    out.dataset.exact = String(tau);
    out.dataset.edge = state.edge;
    const sigma = stages.get(state.stage).layers.get(name).sigma;
    out.replaceChildren(make("b", {}, `τ = ${number(tau)}`), sigma ? ` in this layer, ${(tau / sigma).toFixed(2)}σ` : " in this layer");
    $("ticks").replaceChildren(...(stages.get(state.stage).sweep[unit] || []).map((point) => {
      const tick = make("i");
      tick.style.left = `${(100 * point.edge) / maxEdge[unit]}%`;
      return tick;
    }));

    // Both panels are drawn on the same axes, so that they can be compared.
    const limit = Math.max(axisOf(name), ...shown.map((id) => 1.04 * gridOf(id, name, unit).step * state.edge));
    const pruned = isPrunable(layers[state.layer]), taken = pruned ? "removed by τ" : "τ would take";
    const n = layers[state.layer].n, floor = state.log ? 0.7 : 0;
    const drawn = shown.map((id) => barsOf(gridOf(id, name, unit), barWidth(n, axisOf(name)), limit, state.edge, floor));
    const yMax = Math.max(1, ...drawn.map((d) => d.top)) * (state.log ? 2 : 1.08);
    const spoken = [];
    shown.forEach((id, index) => {
      const panel = panels[index], stage = stages.get(id), layer = stage.layers.get(name), grid = gridOf(id, name, unit);
      const gone = removed(grid, state.edge), cut = grid.step * state.edge, byTau = gone - grid.n_zero;
      panel.title.textContent = stage.title;
      panel.caption.textContent = `${stage.caption} σ = ${number(layer.sigma)}, ${count(layer.n_rows)} × ${count(layer.n_columns)}, ${count(layer.dead_rows)} dead rows.${pruned ? "" : " This layer is not pruned by the recipe."}`;
      mixInto(panel.mix, [["zero", grid.n_zero / layer.n], ["removed", byTau / layer.n], ["kept", (layer.n - gone) / layer.n]]);
      panel.legend.replaceChildren(...[["zero", "already exactly zero", grid.n_zero], ["removed", taken, byTau], ["kept", "kept", layer.n - gone]]
        .map(([kind, text, k]) => make("li", {}, make("span", { class: `dot ${kind}` }), `${text} ${percent(k / layer.n)}`)));
      panel.beyond.textContent = drawn[index].beyond ? `Not drawn: ${count(drawn[index].beyond)} weights beyond ±${number(limit)}, out to ${number(layer.min)} and ${number(layer.max)}.` : "";
      panel.layerTerm.textContent = pruned ? "Removed in this layer" : "τ would take (not pruned by the recipe)";
      share(panel.layerOut, gone, layer.n);
      const [allGone, all] = totalRemoved(id);
      share(panel.totalOut, allGone, all);
      const accuracy = sayAccuracy(panel.accuracyOut, stage);
      panel.chart.describe(`Histogram of the weights, ${stage.title}: threshold ${number(cut)} ${pruned ? "removes" : "would take"} ${percent(gone / layer.n)}, ${percent(grid.n_zero / layer.n)} are exactly zero.`);
      panel.chart.show({ x_max: limit, y_max: yMax }, {
        bars: drawn[index].rows, ghost: [], zero: grid.n_zero ? [{ x: 0 }] : [],
        band: cut ? [{ x0: -cut, x1: cut }] : [], taus: cut ? [{ x: -cut }, { x: cut }] : [],
      });
      const points = stage.sweep[unit] || [], at = unit === "sigma" ? 0.05 * state.edge : tau;
      panel.sweepTitle.textContent = points.length
        ? `Validation accuracy against τ (${unit === "sigma" ? "in sigmas" : "absolute"}), every prunable layer cut; only the marks were measured`
        : "Accuracy of this stage was not measured under other thresholds";
      panel.sweepHost.hidden = !points.length;
      panel.sweep.describe(`${points.length} measured accuracies: ${points.map((p) => `${tauWord(p.edge, unit)} ${percent(p.accuracy)}`).join(", ")}.`);
      panel.sweep.show({ x_max: 1.04 * Math.max(at, ...points.map((p) => p.tau), 1e-9) }, { points, taus: [{ x: at }] });
      spoken.push(`${stage.title}: ${percent(gone / layer.n)} of this layer${pruned ? "" : ", which is not pruned,"} and ${percent(ratio(allGone, all))} of all removed, ${accuracy}.`);
    });
    layerTable(name);
    speak(`Threshold ${tauWord(state.edge, unit)}. ${spoken.join(" ")}`);
  }

  function layerTable(selected) {
    const rows = layers.map((listed, index) => {
      const { name, n } = listed;
      const grid = gridOf(state.stage, name, state.unit), gone = removed(grid, state.edge);
      const mix = make("div", { class: "mix", "aria-hidden": "true" });
      mixInto(mix, [["zero", grid.n_zero / n], ["removed", (gone - grid.n_zero) / n]]);
      const pick = make("button", { type: "button", class: "link" }, name);
      pick.addEventListener("click", () => { state.layer = index; choose(); });
      const row = make("tr", {}, make("th", { scope: "row" }, pick, ...(isPrunable(listed) ? [] : [make("small", {}, "not pruned by the recipe: what τ would take, not in the total")])), make("td", { class: "number" }, count(n)),
        make("td", { class: "number" }, number(grid.step * state.edge)), make("td", { class: "number", "data-count": gone }, `${count(gone)} · ${percent(gone / n)}`), make("td", {}, mix));
      if (name === selected) row.setAttribute("aria-current", "true");
      return row;
    });
    const focused = [...$("layers").querySelectorAll("button")].indexOf(document.activeElement);
    $("layers").replaceChildren(...rows);
    if (focused >= 0) $("layers").querySelectorAll("button")[focused].focus();
    const [gone, all] = totalRemoved(state.stage), mix = make("div", { class: "mix", "aria-hidden": "true" });
    mixInto(mix, [["removed", ratio(gone, all)]]);
    $("layers-total").replaceChildren(make("tr", {}, make("th", { scope: "row" }, "All prunable weights"), make("td", { class: "number" }, count(all)),
      make("td", { class: "number" }, state.unit === "sigma" ? tauWord(state.edge, "sigma") : number(absoluteStep * state.edge)),
      make("td", { class: "number" }, `${count(gone)} · ${percent(ratio(gone, all))}`), make("td", {}, mix)));
  }

  let speaking = 0;
  function speak(text) { // only when the hand rests: a screen reader must not read every step of a drag
    clearTimeout(speaking);
    speaking = setTimeout(() => { $("live").textContent = text; }, 500);
  }

  function choose() { // a select changed
    for (const id of ["layer", "film-layer"]) if ($(id)) $(id).value = String(state.layer);
    update();
    showFrame();
  }

  function explore() {
    const titles = results.stages.map((s) => [s.id, s.title]);
    options($("stage"), titles);
    options($("compare"), [["", "nothing"], ...titles]);
    for (const id of ["layer", "film-layer"]) {
      options($(id), layers.map((l, k) => [String(k), `${l.name} (${l.shape.join(" × ")})${isPrunable(l) ? "" : ", not pruned"}`]));
      $(id).addEventListener("change", (event) => { state.layer = Number(event.target.value); choose(); });
    }
    state.stage = stages.has("trained") ? "trained" : results.stages[0].id;
    state.layer = Math.max(0, layers.findIndex((l) => l.name === results.model.tracked.ffnn));
    state.edge = Math.round((results.tau.sigmas || 1) / 0.05);
    $("stage").value = state.stage;
    $("stage").addEventListener("change", (event) => { state.stage = event.target.value; update(); });
    $("compare").addEventListener("change", (event) => { state.compare = event.target.value; update(); });
    $("unit").addEventListener("change", (event) => {
      const tau = gridOf(state.stage, nameNow(), state.unit).step * state.edge;
      state.unit = event.target.value;
      state.edge = Math.round(tau / gridOf(state.stage, nameNow(), state.unit).step);
      update();
    });
    $("tau").addEventListener("input", (event) => { state.edge = Number(event.target.value); update(); });
    $("tau").addEventListener("keydown", (event) => {
      const jump = { PageUp: 10, PageDown: -10 }[event.key];
      if (!jump) return;
      event.preventDefault();
      state.edge += jump;
      update();
    });
    $("tau-number").addEventListener("change", (event) => {
      const asked = Number(event.target.value);
      if (event.target.value !== "" && Number.isFinite(asked)) state.edge = Math.round(asked / unitStep(state.unit));
      update();
    });
    $("scale").addEventListener("click", () => {
      state.log = !state.log;
      $("scale").setAttribute("aria-pressed", String(state.log));
      for (const panel of panels) { panel.chart.drop(); panel.chart = chartIn(panel.host, histogramName()); }
      if (film.chart) { film.chart.drop(); film.chart = chartIn($("film-chart"), histogramName()); }
      update();
      showFrame();
    });
  }

  // ---------------------------------------------------------------- films
  const film = { chart: null, frames: [], timer: 0 };
  const frameGrid = (frame, name) => frame.grids.get(name);

  function showFrame() {
    if (!film.frames.length) return;
    const name = nameNow(), at = Number($("frame").value), frame = film.frames[at], grid = frameGrid(frame, name);
    const accuracy = frame.accuracy === null ? "accuracy not measured at this frame" : `validation accuracy ${percent(frame.accuracy)}`;
    const text = `step ${count(frame.step)}, epoch ${number(frame.epoch)} · ${accuracy} · sparsity ${percent(frame.sparsity)}`;
    $("frame-value").textContent = text;
    $("frame").setAttribute("aria-valuetext", text);
    const known = film.frames.map((f) => frameGrid(f, name)).filter(Boolean);
    if (!grid) {
      const why = known.length ? "This layer is not recorded in this frame." : "This layer is not recorded in this film.";
      film.chart.describe(why);
      film.chart.show({ x_max: 1, y_max: 1 }, { bars: [], ghost: [], zero: [], band: [], taus: [] });
      $("film-mix").replaceChildren();
      $("film-note").textContent = why;
      return;
    }
    const n = sizeOf(grid), floor = state.log ? 0.7 : 0;
    const limit = 1.04 * (Math.max(...known.map((g) => reach(g, 0.995))) || 1);
    const wanted = barWidth(n, limit);
    const all = known.map((g) => barsOf(g, wanted, limit, 0, floor));
    const now = all[known.indexOf(grid)], start = known[0], merge = Math.max(1, Math.round(wanted / start.step));
    const ghost = all[0].rows.filter((r) => r.part === "kept").sort((a, b) => a.x0 - b.x0).map((r) => ({ x: r.x0, y: r.y1 }));
    if (ghost.length) {
      const width = merge * start.step, last = ghost[ghost.length - 1];
      ghost.unshift({ x: ghost[0].x, y: floor });
      ghost.push({ x: last.x + width, y: floor });
    }
    film.chart.describe(`Histogram of the weights at ${text}; ${percent(grid.n_zero / n)} of this layer exactly zero.`);
    film.chart.show({ x_max: limit, y_max: Math.max(1, ...all.map((d) => d.top)) * (state.log ? 2 : 1.08) },
      { bars: now.rows, ghost, zero: grid.n_zero ? [{ x: 0 }] : [], band: [], taus: [] });
    mixInto($("film-mix"), [["zero", grid.n_zero / n], ["kept", 1 - grid.n_zero / n]]);
    $("film-note").textContent = `${percent(grid.n_zero / n)} of this layer exactly zero` + (now.beyond ? ` · not drawn: ${count(now.beyond)} weights beyond ±${number(limit)}` : "");
  }

  function stopFilm() {
    clearInterval(film.timer);
    film.timer = 0;
    $("play").textContent = "Play";
    $("play").setAttribute("aria-pressed", "false");
  }

  function films() {
    const known = Object.entries(results.films || {}).filter(([, frames]) => frames.length);
    if (!known.length) { drop("films"); return; }
    options($("film"), known.map(([id]) => [id, stages.has(id) ? stages.get(id).title : id]));
    film.chart = chartIn($("film-chart"), histogramName());
    const load = () => {
      stopFilm();
      film.frames = results.films[$("film").value].map((f) => ({ ...f, grids: new Map(Object.entries(f.layers)) }));
      $("frame").max = film.frames.length - 1;
      $("frame").value = 0;
      showFrame();
    };
    $("film").addEventListener("change", load);
    $("frame").addEventListener("input", () => { stopFilm(); showFrame(); });
    $("play").hidden = calm.matches; // the slider stays for those who asked for less motion
    calm.addEventListener("change", () => { stopFilm(); $("play").hidden = calm.matches; });
    $("play").addEventListener("click", () => {
      if (film.timer) { stopFilm(); return; }
      const frame = $("frame");
      if (Number(frame.value) >= Number(frame.max)) frame.value = 0;
      $("play").textContent = "Pause";
      $("play").setAttribute("aria-pressed", "true");
      film.timer = setInterval(() => {
        frame.value = Number(frame.value) + 1;
        showFrame();
        if (Number(frame.value) >= Number(frame.max)) stopFilm();
      }, 260);
    });
    load();
  }

  // ---------------------------------------------------------------- positions, trade-off, claims, bytes and seconds
  function positions() {
    if (!Object.keys(results.positions || {}).length) { drop("positions"); return; }
    options($("component"), Object.entries(COMPONENTS).map(([id, label]) => [id, `${label}: ${results.model.tracked[id]}`]));
    const show = () => {
      const component = $("component").value, name = results.model.tracked[component];
      $("maps").replaceChildren(...results.stages.filter((s) => results.positions[s.id]?.[component]).map((stage) => {
        const place = results.positions[stage.id][component], layer = stages.get(stage.id).layers.get(name);
        const text = `${percent(layer.n_zero / layer.n)} exactly zero, ${count(layer.dead_rows)} dead rows, ${count(layer.dead_columns)} dead columns`;
        const every = place.every && Math.max(...place.every) > 1 ? `, every ${place.every[0]}. row and ${place.every[1]}. column shown` : "";
        const picture = make("img", { src: `data:image/png;base64,${place.png}`, alt: `Weights of the ${COMPONENTS[component]} by position, ${stage.title}: ${text}` });
        return make("figure", {}, picture, make("figcaption", {}, make("b", {}, stage.title), `${text} · ${count(place.rows)} × ${count(place.columns)}${every}`));
      }));
    };
    $("component").value = "ffnn";
    $("component").addEventListener("change", show);
    show();
  }

  function tableInto(table, head, rows, numbers) {
    const cell = (tag, value, k, more = {}) => make(tag, { ...more, ...(numbers.includes(k) ? { class: "number" } : {}) }, value);
    table.replaceChildren(
      make("thead", {}, make("tr", {}, ...head.map((text, k) => cell("th", text, k, { scope: "col" })))),
      make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map((value, k) => (k ? cell("td", value, k) : cell("th", value, k, { scope: "row" })))))));
  }

  function notPruned() {
    const left = results.not_pruned || [];
    if (!left.length) { $("not-pruned").remove(); return; }
    tableInto($("not-pruned-table"), ["Parameter", "Values", "Reason"], left.map((p) => [p.name, count(p.n), p.reason]), [1]);
  }

  function tradeoff() {
    if (!results.tradeoff.length) { drop("tradeoff"); return; }
    const signs = { "one-shot": "●", "fine-tuned": "■", "in-loop": "▲" };
    $("tradeoff-legend").replaceChildren(...Object.entries(STRATEGIES).map(([id, word]) =>
      make("li", {}, make("span", { class: `sign ${id}`, "aria-hidden": "true" }, signs[id]), word)));
    $("tradeoff-caption").textContent = specs.tradeoff_caption;
    const chart = chartIn($("tradeoff-chart"), "tradeoff");
    chart.describe(`Accuracy against sparsity for three strategies. Dense: ${percent(results.dense.mean)}. The table below has every number.`);
    const spread = (point) => percent(point.mean) + (point.low === null ? "" : ` (${range(point)})`);
    const achieved = (p) => make("span", {}, percent(p.sparsity, 2), ...(p.n_collapsed > 0 ? [make("small", {}, `${count(p.n_collapsed)} ${p.n_collapsed === 1 ? "layer" : "layers"} emptied`)] : []));
    const rows = results.tradeoff.map((p) => [STRATEGIES[p.strategy] || p.strategy, percent(p.asked), achieved(p), spread(p), p.n_seeds]);
    tableInto($("tradeoff-table"), ["Strategy", "Sparsity asked", "Achieved", "Test accuracy (interval)", "Seeds"],
      [["dense", percent(0), percent(0, 2), spread(results.dense), results.dense.n_seeds], ...rows], [1, 2, 3, 4]);
  }

  function claims() {
    const looks = { holds: ["holds", "✓"], "does not hold": ["fails", "✗"] };
    // The roles are written out because a phone stacks the cells, which takes the table's own roles away.
    $("claims-table").setAttribute("role", "table");
    $("claims-table").replaceChildren(
      make("thead", { role: "rowgroup" }, make("tr", { role: "row" }, ...["Claim", "Verdict", "Number"].map((text) => make("th", { scope: "col", role: "columnheader" }, text)))),
      make("tbody", { role: "rowgroup" }, ...results.claims.map((claim) => {
        const [look, sign] = looks[claim.verdict] || ["open", "?"];
        return make("tr", { role: "row" }, make("th", { scope: "row", role: "rowheader" }, claim.text, make("span", { class: "detail" }, claim.detail)),
          make("td", { class: `verdict ${look}`, role: "cell" }, make("span", { "aria-hidden": "true" }, `${sign} `), claim.verdict), make("td", { role: "cell" }, claim.number));
      })));
  }

  function zerosAlone() {
    const { size_bytes: size, latency } = results.zeros_alone || {};
    const rows = [];
    if (size) {
      rows.push(["File of the dense network", `${count(size.dense)} bytes`, ""]);
      rows.push(["The same file with the zeros in it", `${count(size.zeroed)} bytes`, size.zeroed === size.dense ? "no difference" : percent(size.zeroed / size.dense)]);
      if (size.dense_deflate) rows.push(["Dense file compressed by deflate", `${count(size.dense_deflate)} bytes`, `${percent(size.dense_deflate / size.dense)} of the dense file`]);
      if (size.zeroed_deflate) rows.push(["File with the zeros compressed by deflate", `${count(size.zeroed_deflate)} bytes`, `${percent(size.zeroed_deflate / size.dense)} of the dense file`]);
    }
    if (latency) {
      const same = latency.low <= 1 && latency.high >= 1;
      const how = `batch ${latency.batch}, threads ${latency.threads}, n = ${count(latency.n)}`;
      rows.push([`Dense forward pass (${how})`, `${(1000 * latency.dense_s).toPrecision(3)} ms`, ""]);
      rows.push(["The same pass with the zeros in it", `${(1000 * latency.zeroed_s).toPrecision(3)} ms`,
        `${same ? "no difference: " : ""}ratio ${latency.ratio.toFixed(3)} (${latency.low.toFixed(3)} to ${latency.high.toFixed(3)})`]);
    }
    tableInto($("zeros-table"), ["What", "Measured", "Against dense"], rows, [1]);
  }

  // ---------------------------------------------------------------- copy, theme, provenance
  async function copy(text, what) {
    let done = false;
    try { await navigator.clipboard.writeText(text); done = true; } catch { /* not allowed from a file: the old way */ }
    if (!done) {
      const area = make("textarea", { readonly: "", "aria-hidden": "true", class: "sr" });
      area.value = text;
      document.body.append(area);
      area.select();
      done = document.execCommand("copy");
      area.remove();
    }
    $("copied").textContent = done ? `${what} copied.` : "The browser did not allow copying; select the text and copy it.";
  }

  function recipe() {
    $("yaml").textContent = results.recipe_yaml;
    $("command").textContent = results.command;
    $("copy-yaml").addEventListener("click", () => copy(results.recipe_yaml, "Recipe"));
    $("copy-command").addEventListener("click", () => copy(results.command, "Command"));
    const { environment: e, data: d, model: m } = results;
    $("provenance").append(
      term("Data", `${d.name}: ${d.source}`), term("Examples", `${count(d.n_train)} train, ${count(d.n_validation)} validation, ${count(d.n_test)} test`),
      term("Model", `${m.name}, ${count(m.n_parameters)} parameters, ${count(m.n_prunable)} prunable`), term("Initialised", m.initialiser),
      term("Threshold", `${sigmaWord(results.tau.text)}: ${results.tau.why}`), term("Seeds", results.seeds.join(", ")),
      term("Machine", [e.cpu, (e.threads || e.cores) && `${e.threads ? `${e.threads} threads` : `${e.cores} cores`}`, e.platform].filter(Boolean).join(", ")), term("Software", `secateurs ${results.version}, Python ${e.python}, torch ${e.torch}, numpy ${e.numpy}`),
      term("Intervals", "95 %, Wilson, for the points measured while dragging τ"));
    if (specs.left_out) { $("left-out").textContent = specs.left_out; $("left-out").hidden = false; }
    $("experiment").textContent = JSON.stringify(results.experiment, null, 2);
  }

  function theme() {
    const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)"), button = $("theme-toggle");
    let chosen = null; // until chosen, the page follows the system
    const apply = () => {
      const now = chosen || (dark.matches ? "dark" : "light");
      root.dataset.theme = now;
      button.textContent = now === "dark" ? "Light" : "Dark";
      button.setAttribute("aria-label", `Switch to the ${now === "dark" ? "light" : "dark"} theme`);
    };
    dark.addEventListener("change", apply);
    button.addEventListener("click", () => { chosen = root.dataset.theme === "dark" ? "light" : "dark"; apply(); });
    apply();
  }

  theme();
  opening();
  explore();
  films();
  positions();
  notPruned();
  tradeoff();
  claims();
  zerosAlone();
  recipe();
  choose();
})();
