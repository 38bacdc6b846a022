// Shows the rows of this page and filters them. Text of the data is only ever put into text nodes.
"use strict";

(() => {
  const PLACEHOLDER = "<|audio|>";
  const SVG = "http://www.w3.org/2000/svg";
  const MOST_WORDS = 400; // compared word by word

  const rows = Array.from(document.querySelectorAll("script.row-data"), (node) => JSON.parse(node.textContent));

  // An element with attributes and children; strings become text nodes, empty children are left out.
  function element(name, attributes, ...children) {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes || {})) {
      if (value !== undefined && value !== false) node.setAttribute(key, value === true ? "" : value);
    }
    node.append(...children.flat(Infinity).filter((child) => child !== undefined && child !== null && child !== ""));
    return node;
  }

  function drawing(name, attributes) {
    const node = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    return node;
  }

  function text(words, kind) {
    return element("span", { class: kind, dir: "auto" }, words);
  }

  // ---- Player ------------------------------------------------------------------------------------------

  let playing = null;

  const ICONS = { play: "M4 2.5v11l9-5.5z", pause: "M4 2.5h3v11H4zM9 2.5h3v11H9z" };

  function wave(levels) {
    const picture = drawing("svg", { viewBox: `0 0 ${levels.length} 36`, preserveAspectRatio: "none", "aria-hidden": "true" });
    let path = "";
    for (let i = 0; i < levels.length; i += 1) {
      const half = Math.max(parseInt(levels[i], 36) / 35 * 17, 0.6);
      path += `M${i + 0.5} ${18 - half}V${18 + half}`;
    }
    picture.append(drawing("path", { d: path }));
    return picture;
  }

  function player(speech, number) {
    if (!speech.sound) {
      const why = speech.seconds === null ? "no sound" : `sound of ${speech.seconds} s left out: this page is large enough`;
      return element("p", { class: "silent" }, why);
    }
    const audio = element("audio", { preload: "none" });
    const icon = drawing("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" });
    const shape = drawing("path", { d: ICONS.play });
    icon.append(shape);
    const button = element("button", { type: "button", class: "play", "aria-label": `Play ${speech.id}` }, icon);
    const played = element("div", { class: "played" }, wave(speech.wave));
    const slider = element(
      "div",
      {
        class: "wave", role: "slider", tabindex: "0", "aria-label": `Position in ${speech.id}`,
        "aria-valuemin": "0", "aria-valuemax": String(speech.seconds),
      },
      wave(speech.wave), played,
    );
    const clock = element("span", { class: "clock" });
    const node = element("div", { class: "player" }, button, slider, clock, audio);

    const length = () => (Number.isFinite(audio.duration) ? audio.duration : speech.seconds);

    function show() {
      const part = Math.min(audio.currentTime / length(), 1) || 0;
      played.style.clipPath = `inset(0 ${(1 - part) * 100}% 0 0)`;
      const now = audio.currentTime.toFixed(1);
      clock.textContent = `${now} / ${length().toFixed(1)} s`;
      slider.setAttribute("aria-valuenow", now);
      slider.setAttribute("aria-valuetext", `${now} of ${length().toFixed(1)} seconds`);
    }

    function follow() {
      show();
      if (!audio.paused) requestAnimationFrame(follow);
    }

    // The sound is handed over when it is asked for: a page of many rows opens at once.
    function load() {
      if (!audio.src) audio.src = `data:audio/flac;base64,${document.getElementById(speech.sound).textContent}`;
    }

    function go(seconds) {
      load();
      const there = Math.min(Math.max(seconds, 0), length());
      if (audio.readyState > 0) audio.currentTime = there;
      else audio.addEventListener("loadedmetadata", () => { audio.currentTime = there; show(); }, { once: true });
      if (audio.readyState === 0) audio.load();
      show();
    }

    function failed() {
      node.replaceWith(element("p", { class: "silent" }, "This browser cannot play FLAC."));
    }

    button.addEventListener("click", () => {
      load();
      if (!audio.paused) audio.pause();
      else audio.play().catch((error) => { if (error.name === "NotSupportedError") failed(); });
    });
    audio.addEventListener("play", () => {
      if (playing && playing !== audio) playing.pause();
      playing = audio;
      shape.setAttribute("d", ICONS.pause);
      button.setAttribute("aria-label", `Pause ${speech.id}`);
      follow();
    });
    audio.addEventListener("pause", () => {
      shape.setAttribute("d", ICONS.play);
      button.setAttribute("aria-label", `Play ${speech.id}`);
      show();
    });
    audio.addEventListener("seeked", show);
    slider.addEventListener("pointerdown", (event) => {
      const box = slider.getBoundingClientRect();
      go((event.clientX - box.left) / box.width * length());
    });
    slider.addEventListener("keydown", (event) => {
      const steps = { ArrowLeft: -0.5, ArrowDown: -0.5, ArrowRight: 0.5, ArrowUp: 0.5, Home: -Infinity, End: Infinity };
      if (event.key === " " || event.key === "Enter") button.click();
      else if (event.key in steps) go(audio.currentTime + steps[event.key]);
      else return;
      event.preventDefault();
    });
    show();
    return node;
  }

  // ---- Words -------------------------------------------------------------------------------------------

  // The transcript with the words marked that carry arguments.
  function transcript(row, index) {
    const said = row.speech[index].transcript;
    const spots = [];
    for (const mention of row.mentions) {
      const begin = mention.utterance === index && mention.words ? said.indexOf(mention.words) : -1;
      if (begin >= 0) spots.push({ begin, end: begin + mention.words.length, argument: mention.argument });
    }
    spots.sort((a, b) => a.begin - b.begin || b.end - a.end);
    const pieces = [];
    let at = 0;
    for (const spot of spots) {
      if (spot.begin < at) continue;
      pieces.push(said.slice(at, spot.begin));
      pieces.push(element("mark", { title: spot.argument }, said.slice(spot.begin, spot.end)));
      at = spot.end;
    }
    pieces.push(said.slice(at));
    return element("span", { dir: "auto" }, pieces);
  }

  const plain = (word) => word.toLowerCase().normalize("NFKC").replace(/[^\p{L}\p{N}\p{M}]/gu, "");

  // The hypothesis with the words marked that the voice was not given: a longest common subsequence.
  function heard(hypothesis, said) {
    const ours = hypothesis.split(/\s+/).filter(Boolean);
    const theirs = said.split(/\s+/).map(plain).filter(Boolean);
    if (ours.length > MOST_WORDS || theirs.length > MOST_WORDS) return text(hypothesis);
    const words = ours.map(plain);
    const common = Array.from({ length: words.length + 1 }, () => new Uint16Array(theirs.length + 1));
    for (let i = words.length - 1; i >= 0; i -= 1) {
      for (let j = theirs.length - 1; j >= 0; j -= 1) {
        common[i][j] = words[i] === theirs[j] ? common[i + 1][j + 1] + 1 : Math.max(common[i + 1][j], common[i][j + 1]);
      }
    }
    const pieces = [];
    for (let i = 0, j = 0; i < words.length; i += 1) {
      while (j < theirs.length && words[i] !== theirs[j] && common[i][j + 1] >= common[i + 1][j]) j += 1;
      const same = words[i] === "" || (j < theirs.length && words[i] === theirs[j]);
      if (same && words[i] !== "") j += 1;
      pieces.push(same ? ours[i] : element("em", { title: "not what was said" }, ours[i]), " ");
    }
    return element("span", { class: "heard", dir: "auto" }, pieces);
  }

  function utterance(row, index) {
    const speech = row.speech[index];
    const lines = [];
    const line = (name, content) => lines.push(element("div", {}, element("dt", {}, name), element("dd", {}, content)));
    if (speech.transcript) line("said", transcript(row, index));
    if (speech.spoken !== null) line("voiced as", text(speech.spoken));
    if (speech.hypothesis !== null) {
      line("heard", speech.hypothesis ? heard(speech.hypothesis, speech.spoken || speech.transcript) : text("nothing", "muted"));
    }
    return element("div", { class: "utterance" }, player(speech, index), lines.length ? element("dl", {}, lines) : "");
  }

  // ---- Rows --------------------------------------------------------------------------------------------

  // Ids and paths may be broken after their separators; what is copied has no break.
  function facts(pairs) {
    const pieces = (value) => value.split(/(?<=[/:#!,])/).map((piece, i) => (i ? [element("wbr"), piece] : piece));
    return element("dl", { class: "facts" }, pairs.map(([name, value]) => (
      element("div", {}, element("dt", {}, name), element("dd", { dir: "auto" }, pieces(value)))
    )));
  }

  function folded(title, ...content) {
    return element("details", {}, element("summary", {}, title), content);
  }

  function call(made) {
    const id = made.id ? element("span", { class: "id" }, made.id) : "";
    return element("div", { class: "call" }, element("p", {}, element("code", {}, made.name), id),
      element("pre", {}, made.arguments));
  }

  // A message's content with a player in the place of each placeholder.
  function content(row, message, next) {
    const pieces = [];
    message.content.split(PLACEHOLDER).forEach((words, i) => {
      if (i > 0) pieces.push(next.index < row.speech.length ? utterance(row, next.index++) : text(PLACEHOLDER));
      if (words.trim()) pieces.push(element("p", { class: "words", dir: "auto" }, words.trim()));
    });
    return pieces;
  }

  function turn(role, ...pieces) {
    return element("div", { class: `turn ${["user", "assistant", "system", "tool"].includes(role) ? role : "other"}` },
      element("p", { class: "role" }, role), element("div", { class: "said" }, pieces));
  }

  function tools(row) {
    if (!row.tools.length) return "";
    return element("div", { class: "tools" }, folded(`${row.tools.length} ${row.tools.length === 1 ? "tool" : "tools"} offered`,
      row.tools.map((tool) => element("div", { class: "offer" },
        element("p", {}, element("code", {}, tool.name), " ", text(tool.description)),
        folded("parameters", element("pre", {}, tool.parameters))))));
  }

  function conversation(row) {
    const next = { index: 0 };
    const turns = row.messages.map((message) => (message.role === "tool"
      ? turn("tool", message.call ? element("p", { class: "id" }, `result of ${message.call}`) : "", element("pre", { dir: "auto" }, message.content))
      : turn(message.role, message.role === "user" ? content(row, message, next)
        : message.content ? element("p", { class: "words", dir: "auto" }, message.content) : "", message.calls.map(call))));
    const rest = row.speech.slice(next.index).map((_, i) => utterance(row, next.index + i));
    if (rest.length) turns.unshift(turn("speech", rest)); // of rows that were set aside before a task was made of them
    return turns;
  }

  function answers(row) {
    const last = row.messages.length ? row.messages[row.messages.length - 1].content : "";
    const parts = [];
    if (row.choices.length) parts.push(["choices", element("span", { dir: "auto" }, row.choices.join(" · "))]);
    if (row.accepted) parts.push(["accepted", row.answer === "[]" ? text("no call", "muted") : element("pre", {}, row.answer)]);
    else if (row.answer && row.answer !== last) parts.push(["answer", text(row.answer)]);
    if (row.evidence) parts.push(["evidence", text(row.evidence)]);
    if (row.mentions.length) {
      parts.push(["mentions", element("ul", {}, row.mentions.map((mention) => (
        element("li", {}, element("code", {}, mention.argument), " ", text(mention.words)))))]);
    }
    if (!parts.length) return "";
    return element("dl", { class: "answers" }, parts.map(([name, node]) => (
      element("div", {}, element("dt", {}, name), element("dd", {}, node)))));
  }

  function article(row) {
    const title = `row-${row.rejected === null ? "" : "rejected-"}${row.number}`;
    const tags = [row.language, row.split, row.outcome, row.situation].filter(Boolean);
    const head = element("header", {},
      element("h3", { id: title }, element("span", { class: "number" }, `${row.number}`), row.task || "no task yet"),
      element("ul", { class: "tags" }, tags.map((tag) => element("li", { class: "tag" }, tag)),
        row.rejected === null ? "" : element("li", { class: "tag warn" }, row.rejected)));
    const unheard = row.speech.some((speech) => speech.hypothesis === null);
    const measured = row.scores.concat(unheard ? [["ASR", "speech not verified"]] : []);
    const named = [["id", row.id]];
    if (row.response_language && row.response_language !== row.language) named.push(["response in", row.response_language]);
    const side = element("aside", { "aria-label": "Scores and origin" },
      facts(measured.concat(named)),
      row.speech.map((speech, i) => folded(row.speech.length > 1 ? `speech ${i + 1}` : "speech", facts(speech.facts))),
      row.provenance.length ? folded("provenance", facts(row.provenance)) : "",
      row.reply ? folded("reply of the LLM", element("pre", { dir: "auto" }, row.reply)) : "");
    return element("article", { class: row.rejected === null ? "row" : "row aside", "aria-labelledby": title }, head,
      row.rejected !== null && row.detail ? element("p", { class: "detail", dir: "auto" }, row.detail) : "",
      element("div", { class: "body" }, element("div", { class: "chat" }, tools(row), conversation(row), answers(row)), side));
  }

  // ---- Filters -----------------------------------------------------------------------------------------

  const FILTERS = [
    ["task", (row) => [row.task]],
    ["language", (row) => [row.language]],
    ["split", (row) => [row.split]],
    ["outcome", (row) => [row.outcome]],
    ["situation", (row) => [row.situation]],
    ["voice", (row) => row.speech.map((speech) => speech.voice)],
    ["state", (row) => (row.rejected === null ? ["kept"] : ["set aside", `set aside: ${row.rejected}`])],
  ];

  const place = document.getElementById("rows");
  const search = document.getElementById("search");
  const reset = document.getElementById("reset");
  const selects = [];

  function searchable(row) {
    const words = [row.id, row.task, row.rejected || "", row.detail, row.answer, row.evidence, ...row.choices];
    row.speech.forEach((speech) => words.push(speech.id, speech.transcript, speech.spoken || "", speech.hypothesis || "",
      ...speech.facts.map((fact) => fact[1])));
    row.messages.forEach((message) => words.push(message.content, ...message.calls.map((made) => `${made.name} ${made.arguments}`)));
    row.tools.forEach((tool) => words.push(tool.name, tool.description));
    return words.join("\n").toLowerCase().normalize("NFKC");
  }

  for (const [name, values] of FILTERS) {
    const counts = new Map();
    rows.forEach((row) => new Set(values(row).filter(Boolean)).forEach((value) => counts.set(value, (counts.get(value) || 0) + 1)));
    if (counts.size < 2) continue;
    const options = Array.from(counts.keys()).sort().map((value) => element("option", { value }, `${value} (${counts.get(value)})`));
    const select = element("select", { "data-filter": name }, element("option", { value: "" }, "all"), options);
    selects.push([select, values]);
    document.getElementById("selects").append(element("label", {}, name, select));
  }

  const shown = rows.map((row) => ({ row, node: article(row), words: searchable(row) }));
  place.append(...shown.map((entry) => entry.node));

  function apply() {
    const wanted = search.value.toLowerCase().normalize("NFKC").split(/\s+/).filter(Boolean);
    let count = 0;
    for (const { row, node, words } of shown) {
      const fits = selects.every(([select, values]) => !select.value || values(row).includes(select.value))
        && wanted.every((word) => words.includes(word));
      node.hidden = !fits;
      if (fits) count += 1;
      else if (playing && node.contains(playing)) playing.pause();
    }
    document.getElementById("count").textContent = `${count} of ${rows.length} ${rows.length === 1 ? "row" : "rows"} shown`;
    document.getElementById("nothing").hidden = count > 0;
    reset.hidden = count === rows.length;
  }

  search.addEventListener("input", apply);
  selects.forEach(([select]) => select.addEventListener("change", apply));
  reset.addEventListener("click", () => {
    search.value = "";
    selects.forEach(([select]) => { select.value = ""; });
    apply();
    search.focus();
  });
  document.getElementById("filters").hidden = false;
  apply();
})();
