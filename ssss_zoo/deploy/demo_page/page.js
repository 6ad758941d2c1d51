"use strict";
const byId = (id) => document.getElementById(id);
let demo = { unlabelled: 0, upload_bytes: 0 };
let position = -1;
let asked = 0; // the latest request; answers to earlier ones are dropped

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function say(text, isError) {
  byId("message").textContent = text;
  byId("message").className = isError ? "error" : "";
}

function refuse(text) {
  byId("results").replaceChildren();
  byId("compare").hidden = true;
  say(text, true);
}

async function show(name, url, options) {
  const mine = ++asked;
  say(`Predicting ${name} …`, false);
  try {
    const response = await fetch(url, options);
    const answer = await response.json();
    if (mine !== asked) return;
    if (answer.error) refuse(answer.error);
    else draw(answer);
  } catch (error) {
    if (mine === asked) refuse("No answer: ssss demo has ended, or it refused the upload.");
  }
}

function draw(answer) {
  const predictions = answer.predictions;
  say(`${answer.name}, ${predictions[0].size.join(" x ")} pixels`, false);
  byId("results").replaceChildren(...predictions.map(drawPrediction));
  byId("compare").hidden = predictions.length < 2;
  if (predictions.length < 2) return;
  [["above", "left"], ["below", "right"]].forEach(([picture, label], number) => {
    byId(picture).src = predictions[number].overlay;
    byId(picture).alt = `Overlay of ${predictions[number].run}`;
    byId(label).textContent = predictions[number].run;
  });
  slide();
}

function slide() {
  byId("above").style.clipPath = `inset(0 ${100 - byId("slider").value}% 0 0)`;
}

function drawPrediction(prediction) {
  const section = element("section");
  section.append(element("h2", prediction.run));
  const pictures = element("div", undefined, "pictures");
  for (const kind of ["image", "overlay", "mask", "uncertainty"]) {
    const figure = element("figure");
    const picture = element("img", undefined, kind);
    picture.src = prediction[kind];
    picture.alt = `${kind} of ${prediction.run}`;
    const caption = kind === "uncertainty" ? "uncertainty (white: high)" : kind;
    figure.append(picture, element("figcaption", caption));
    pictures.append(figure);
  }
  section.append(pictures, drawShares(prediction.classes));
  section.append(element("p", `Mean confidence ${(100 * prediction.confidence).toFixed(1)} %`));
  return section;
}

function drawShares(classes) {
  const table = element("table");
  for (const { name, colour, share } of classes) {
    const row = table.insertRow();
    const swatch = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const square = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    for (const side of ["width", "height"]) square.setAttribute(side, "16");
    square.setAttribute("fill", colour);
    swatch.append(square);
    row.insertCell().append(swatch);
    row.insertCell().textContent = name;
    const cell = row.insertCell();
    cell.textContent = `${(100 * share).toFixed(1)} %`;
    cell.className = "share";
  }
  return table;
}

function upload(file) {
  if (!file) return;
  if (file.size > demo.upload_bytes) {
    asked++;
    const limit = demo.upload_bytes / 1e6;
    refuse(`${file.name} has ${(file.size / 1e6).toFixed(1)} MB; at most ${limit} MB are taken (max_upload=)`);
    return;
  }
  show(file.name, `predict?name=${encodeURIComponent(file.name)}`, { method: "POST", body: file });
}

function walk(step) {
  position = Math.min(Math.max(position + step, 0), demo.unlabelled - 1);
  byId("position").textContent = `unlabelled image ${position + 1} of ${demo.unlabelled}`;
  byId("previous").disabled = position === 0;
  byId("next").disabled = position === demo.unlabelled - 1;
  show(`unlabelled image ${position + 1}`, `unlabelled/${position}`);
}

async function start() {
  demo = await (await fetch("demo.json")).json();
  byId("sources").textContent = demo.sources.join("\n");
  byId("limit").textContent = `(at most ${demo.upload_bytes / 1e6} MB)`;
  byId("missing").textContent = demo.missing;
  byId("walk").hidden = demo.unlabelled === 0;
  byId("position").textContent = `${demo.unlabelled} unlabelled images`;
  byId("previous").disabled = true;
}

byId("file").addEventListener("change", (event) => { upload(event.target.files[0]); event.target.value = ""; });
byId("slider").addEventListener("input", slide);
byId("previous").addEventListener("click", () => walk(-1));
byId("next").addEventListener("click", () => walk(1));
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    byId("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") upload(event.dataTransfer.files[0]);
  });
}
start();
