"use strict";
const by = (id) => document.getElementById(id);
const rows = JSON.parse(by("sample").textContent);
const body = by("body"), send = by("send"), status = by("status"), summary = by("summary"), answer = by("answer");

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function show(value, button) {
  body.value = JSON.stringify(value, null, 2);
  body.rows = Math.min(Math.max(body.value.split("\n").length + 1, 10), 24);
  for (const other of by("examples").children) other.setAttribute("aria-pressed", other === button);
}

const examples = rows.map((row, i) => [`Row ${i + 1}`, row]);
if (rows.length > 1) examples.push([`All ${rows.length}`, { rows }]);
for (const [name, value] of examples) {
  const button = element("button", name);
  button.type = "button";
  button.addEventListener("click", () => show(value, button));
  by("examples").append(button);
}
show(rows[0], by("examples").firstChild);
body.addEventListener("input", () => {
  for (const button of by("examples").children) button.setAttribute("aria-pressed", "false");
});

function say(text, good) {
  status.textContent = text;
  status.className = good ? "good" : "bad";
}

function number(value) {
  return typeof value === "number" && !Number.isInteger(value) ? String(+value.toPrecision(6)) : String(value);
}

function classes(probabilities) {
  const sorted = Object.entries(probabilities).sort((a, b) => b[1] - a[1]).slice(0, 8);
  return sorted.map(([name, p]) => {
    const line = element("div", undefined, "class");
    const meter = element("meter");
    meter.max = 1;
    meter.value = p;
    meter.setAttribute("aria-label", name);
    line.append(element("span", name), meter, element("span", `${(100 * p).toFixed(1)} %`));
    return line;
  });
}

function summarise(told) {
  if (told.error) {
    const parts = [["p", told.error.what], ["p", told.error.expected && `Expected: ${told.error.expected}`],
      ["p", told.error.fix && `To do: ${told.error.fix}`]];
    return parts.filter(([, text]) => text).map(([tag, text]) => element(tag, text));
  }
  if ("prediction" in told) {
    return [element("p", number(told.prediction), "result"), ...(told.probabilities ? classes(told.probabilities) : [])];
  }
  return [element("p", `${told.predictions.length} predictions`, "result")];
}

async function ask() {
  send.disabled = true;
  const start = performance.now();
  try {
    const response = await fetch("predict", {
      method: "POST", headers: { "content-type": "application/json" }, body: body.value,
    });
    const text = await response.text();
    const took = performance.now() - start;
    const word = response.ok ? "OK" : response.status < 500 ? "refused" : "failed";
    say(`${response.status} ${word} in ${took.toFixed(1)} ms`, response.ok);
    const told = JSON.parse(text);
    summary.replaceChildren(...summarise(told));
    answer.textContent = JSON.stringify(told, null, 2);
    answer.hidden = false;
  } catch (error) {
    say(`No answer: ${error.message}`, false);
    summary.replaceChildren();
    answer.hidden = true;
  }
  send.disabled = false;
}

send.addEventListener("click", ask);
body.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    ask();
  }
});

by("copy").addEventListener("click", async (event) => {
  const quoted = body.value.replace(/\s*\n\s*/g, " ").replaceAll("'", "'\\''");
  const command = `curl -s ${new URL("predict", location.href)} -H 'content-type: application/json' -d '${quoted}'`;
  try {
    await navigator.clipboard.writeText(command);
    event.target.textContent = "Copied";
  } catch {
    answer.textContent = command;
    answer.hidden = false;
  }
});

async function look() {
  let ready = false;
  try {
    ready = (await fetch("health/ready")).ok;
  } catch { /* it does not answer, so it is not ready */ }
  by("light").className = ready ? "good" : "bad";
  by("state").textContent = ready ? "Ready" : "Not ready";
}
look();
setInterval(look, 10000);
