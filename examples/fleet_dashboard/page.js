"use strict";

// What a device calls itself is text, and only ever set as text.

const $ = (selector, within = document) => within.querySelector(selector);
const HISTORY_MS = 120_000;
const cards = new Map();
let isConnected = false;
let isPingingAll = false;

// The server tells what is new; the browser connects again by itself.

const events = new EventSource("events");
const listen = (name, handle) => events.addEventListener(name, (event) => handle(JSON.parse(event.data)));

listen("fleet", (fleet) => {
  for (const [id, card] of cards) {
    if (!(id in fleet)) {
      card.element.remove();
      cards.delete(id);
    }
  }
  for (const [id, device] of Object.entries(fleet)) show(id, device, device.readings);
});

listen("change", ({ id, reading, ...device }) => {
  const before = cards.get(id)?.readings ?? [];
  show(id, device, reading ? [...before, reading] : before);
});

listen("broker", ({ connected, state }) => {
  isConnected = connected;
  setPill(connected ? "connected to the broker" : "no broker", connected);
  if (connected) tellTrouble(null);
  // While it tries again it says nothing new.
  else if (state !== "connecting") {
    tellTrouble(`There is no connection to the broker (${state}). The server tries again; what you see is from before.`);
  }
  allowButtons();
});

events.onerror = () => {
  isConnected = false;
  setPill("no server", false);
  tellTrouble("The server of this page does not answer. Is it running? The page tries again by itself.");
  allowButtons();
};

function setPill(text, isGood) {
  const pill = $("#broker");
  pill.textContent = text;
  pill.className = `pill ${isGood ? "good" : "bad"}`;
}

function tellTrouble(text) {
  const banner = $("#banner");
  banner.hidden = text === null;
  if (banner.textContent !== text) banner.textContent = text ?? "";
}

function allowButtons() {
  for (const button of document.querySelectorAll("button.ping")) allow(button, isConnected);
  allow($("#ping-all"), isConnected && !isPingingAll && cards.size > 0);
}

// A button that is disabled would lose the focus of whoever uses the keyboard.
function allow(button, isAllowed) {
  button.setAttribute("aria-disabled", String(!isAllowed));
}

function onPress(button, handle) {
  button.addEventListener("click", () => {
    if (button.getAttribute("aria-disabled") === "false") handle();
  });
}

// A card for each device, in the order of their names.

function show(id, device, readings) {
  const isNew = !cards.has(id);
  const card = cards.get(id) ?? makeCard(id);
  const from = Date.now() - HISTORY_MS;
  card.online = device.online;
  card.lastSeen = device.last_seen;
  card.readings = readings.filter((reading) => reading.at >= from);
  card.element.classList.toggle("away", !device.online);
  const status = $(".status", card.element);
  status.textContent = device.online ? "online" : "offline";
  status.className = `status ${device.online ? "good" : "bad"}`;
  $(".number", card.element).textContent = readings.length ? degrees(readings.at(-1).celsius) : "–";
  draw($(".chart", card.element), card.readings);
  tellSeen(card);
  tellCount();
  if (isNew) allowButtons();
}

function makeCard(id) {
  const element = $("#card").content.cloneNode(true).firstElementChild;
  const card = { element, readings: [], online: false, lastSeen: null };
  element.dataset.id = id;
  $("h3", element).textContent = id;
  const button = $("button", element);
  button.setAttribute("aria-label", `Ping ${id}`);
  onPress(button, () => ping(id, button, $("output", element)));
  const after = [...cards.keys()].filter((other) => other > id).sort()[0];
  $("#devices").insertBefore(element, cards.get(after)?.element ?? null);
  cards.set(id, card);
  return card;
}

function tellSeen({ element, lastSeen }) {
  $(".seen", element).textContent = lastSeen === null ? "not seen yet" : `last seen ${ago(Date.now() - lastSeen)}`;
}

function ago(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 2) return "now";
  if (seconds < 120) return `${seconds} s ago`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min ago`;
  return `${Math.round(seconds / 3600)} h ago`;
}

function degrees(celsius) {
  return celsius.toFixed(1).replace("-", "−");
}

function tellCount() {
  const online = [...cards.values()].filter((card) => card.online).length;
  $("#count").textContent = `${online} of ${cards.size} devices online`;
  $("#none").hidden = cards.size > 0;
}

setInterval(() => cards.forEach(tellSeen), 1000);

// The last two minutes at most; fewer readings fill the width, too.
function draw(chart, readings) {
  const values = readings.map((reading) => reading.celsius);
  if (values.length < 2) {
    chart.setAttribute("aria-label", "Temperature: no history yet");
    for (const path of chart.children) path.removeAttribute("d");
    return;
  }
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const [middle, reach] = [(low + high) / 2, Math.max(high - low, 0.5) / 2];
  const [first, last] = [readings[0].at, readings.at(-1).at];
  const x = (at) => (240 * (at - first)) / Math.max(last - first, 1);
  const y = (celsius) => 28 - (24 * (celsius - middle)) / reach;
  const line = readings.map(({ at, celsius }) => `${x(at).toFixed(1)},${y(celsius).toFixed(1)}`).join("L");
  $(".line", chart).setAttribute("d", `M${line}`);
  $(".area", chart).setAttribute("d", `M0,56L${line}L240,56Z`);
  const seconds = Math.round((last - first) / 1000);
  chart.setAttribute("aria-label", `Temperature over ${seconds} s: ${degrees(low)} to ${degrees(high)} °C`);
}

// Pings.

async function ping(id, button, output) {
  allow(button, false);
  output.className = "";
  output.textContent = "…";
  try {
    const response = await post("ping", { id });
    tellPing(output, await response.json(), response.ok);
  } catch (error) {
    tellFailure(output, reason(error));
  }
  allow(button, isConnected);
}

async function post(path, body) {
  const headers = { "content-type": "application/json" };
  const response = await fetch(path, { method: "POST", headers, body: JSON.stringify(body) });
  // Of a proxy on the way, or of the server before it came to the question.
  const isJson = response.headers.get("content-type")?.includes("json");
  if (!isJson) throw new Error(`the server answers with the status ${response.status}`);
  return response;
}

// What fetch throws, and a body that breaks off, is a TypeError.
function reason(error) {
  return error instanceof TypeError ? "the server does not answer" : error.message;
}

function tellPing(output, answer, isOk) {
  if (!isOk) return tellFailure(output, answer.status === 504 ? "no reply" : answer.detail);
  output.className = "good";
  output.textContent = `${answer.ms.toFixed(1)} ms`;
}

function tellFailure(output, why) {
  output.className = "bad";
  output.textContent = why;
}

const BOUNDS = [5, 10, 15, 20, 30, 50, 100, 200, Infinity];

const bins = [...BOUNDS.map((bound) => (bound === Infinity ? "more" : `< ${bound}`)), "none"].map((label) => {
  const item = document.createElement("li");
  const [times, bar, name] = ["times", "bar", "label"].map((part) => {
    const span = document.createElement("span");
    span.className = part;
    item.append(span);
    return span;
  });
  name.textContent = label;
  bar.setAttribute("aria-hidden", "true");
  if (label === "none") item.className = "failed";
  $("#histogram").append(item);
  return { item, times, bar, count: 0 };
});

function drawHistogram() {
  const most = Math.max(1, ...bins.map((bin) => bin.count));
  for (const { item, times, count } of bins) {
    item.style.setProperty("--share", count / most);
    times.textContent = count || "";
  }
}

onPress($("#ping-all"), async () => {
  const output = $("#ping-all-result");
  isPingingAll = true;
  allowButtons();
  output.className = "";
  try {
    await pingAll(output);
  } catch (error) {
    tellFailure(output, reason(error));
  }
  isPingingAll = false;
  allowButtons();
});

async function pingAll(output) {
  const progress = $("#progress");
  const response = await post("ping/all", {});
  let [total, done, failed] = [0, 0, 0];
  for (const bin of bins) bin.count = 0;
  for await (const answer of lines(response.body)) {
    if ("total" in answer) {
      total = answer.total;
    } else {
      done += 1;
      failed += "problem" in answer;
      bins["problem" in answer ? bins.length - 1 : BOUNDS.findIndex((bound) => answer.ms < bound)].count += 1;
      const card = cards.get(answer.id);
      if (card) tellPing($("output", card.element), answer.problem ?? answer, !("problem" in answer));
    }
    progress.max = total || 1;
    progress.value = done;
    output.textContent = `${Math.floor((100 * done) / (total || 1))} % (${done} of ${total})`;
    drawHistogram();
  }
  output.textContent += failed ? `, ${failed} without an answer` : ", all answered";
}

async function* lines(body) {
  let rest = "";
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    for (const part of parts) yield JSON.parse(part);
  }
}

drawHistogram();
