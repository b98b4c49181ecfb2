"use strict";

const at = (id) => document.getElementById(id);
const pretty = (value) => JSON.stringify(value, null, 2);

function make(tag, text, ...children) {
  const element = document.createElement(tag);
  if (text) element.textContent = text;
  element.append(...children);
  return element;
}

function folded(summary, ...children) {
  return make("details", "", make("summary", "", ...summary), ...children);
}

function rows(heads, lines) {
  const head = make("tr", "", ...heads.map((text) => make("th", text)));
  const body = lines.map((cells) => make("tr", "", ...cells.map((text) => make("td", text))));
  return make("table", "", head, ...body);
}

// --- the calls and the shapes, as the document has them

function operation(path, method, call) {
  const verb = make("span", method.toUpperCase());
  verb.className = "method";
  const summary = [verb, make("code", path), ` ${call.summary}`];
  const parts = [make("p", call.description || "")];
  if (call.parameters) {
    const lines = call.parameters.map((one) => [one.name, one.in, one.description || ""]);
    parts.push(rows(["Parameter", "In", "Meaning"], lines));
  }
  const answers = Object.entries(call.responses).map(([status, one]) => {
    const types = Object.keys(one.content || {}).join(", ");
    return [status, types, one.description.replaceAll("`", "")];
  });
  parts.push(rows(["Status", "Type", "Meaning"], answers));
  return folded(summary, ...parts);
}

function show(api) {
  at("about").textContent = `${api.info.summary} Version ${api.info.version}. The same as data: /openapi.json`;
  for (const [path, calls] of Object.entries(api.paths))
    for (const [method, call] of Object.entries(calls)) at("operations").append(operation(path, method, call));
  for (const [name, schema] of Object.entries(api.components.schemas))
    at("shapes").append(folded([make("code", name)], make("pre", pretty(schema))));
}

// --- trying a function

function sample(schema, root) {
  if (!schema || typeof schema !== "object") return {};
  if (schema.$ref && schema.$ref.startsWith("#/")) {
    const found = schema.$ref.slice(2).split("/").reduce((part, name) => part && part[name], root);
    return sample(found, root);
  }
  if ("default" in schema) return schema.default;
  if ("const" in schema) return schema.const;
  if (schema.examples) return schema.examples[0];
  if (schema.enum) return schema.enum[0];
  const kind = Array.isArray(schema.type) ? schema.type[0] : schema.type;
  if (kind === "object" || schema.properties) {
    const wanted = (schema.required || []).map((name) => [name, sample((schema.properties || {})[name], root)]);
    return Object.fromEntries(wanted);
  }
  return { string: "", integer: schema.minimum ?? 0, number: schema.minimum ?? 0, boolean: false, array: [] }[kind] ?? {};
}

function body() {
  return `{"taskType": ${JSON.stringify(at("function").value)}, "payload": ${at("payload").value}}`;
}

function showCurl() {
  const quoted = body().replaceAll("'", "'\\''");
  at("curl").value = `curl -s ${location.origin}/tasks -H 'Content-Type: application/json' -d '${quoted}'`;
}

function choose(functions) {
  const chosen = functions.find((one) => one.name === at("function").value);
  at("description").textContent = chosen ? chosen.description : "No function is deployed yet.";
  at("schema").textContent = chosen && chosen.schema ? pretty(chosen.schema) : "It takes anything.";
  at("payload").value = pretty(chosen && chosen.schema ? sample(chosen.schema, chosen.schema) : {});
  showCurl();
}

async function asked(path, options) {
  const answer = await fetch(path, options);
  return { ok: answer.ok, text: await answer.text() };
}

async function submit(event) {
  event.preventDefault();
  const say = ({ ok, text }) => {
    at("answer").hidden = false;
    at("answer").textContent = text;
    at("answer").className = ok ? "" : "failed";
  };
  const headers = { "content-type": "application/json" };
  const posted = await asked("/tasks", { method: "POST", headers, body: body() });
  say(posted);
  if (!posted.ok) return;
  const { taskId } = JSON.parse(posted.text);
  const task = await asked(`/tasks/${taskId}?wait=60`);
  say({ ok: task.ok, text: task.ok ? pretty(JSON.parse(task.text)) : task.text });
}

async function start() {
  const [api, listed] = await Promise.all([asked("/openapi.json"), asked("/functions")]);
  if (!api.ok) throw new Error(api.text);
  show(JSON.parse(api.text));
  const functions = listed.ok ? JSON.parse(listed.text).functions : [];
  at("function").append(...functions.map((one) => make("option", one.name)));
  at("function").addEventListener("change", () => choose(functions));
  at("payload").addEventListener("input", showCurl);
  at("try").addEventListener("submit", submit);
  choose(functions);
}

start().catch((error) => { at("about").textContent = `The API cannot be read: ${error.message}`; });
