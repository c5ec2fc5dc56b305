// Checks the record in this page, and shows what holds. Everything that is shown is read from the bytes that were checked, never from a copy.
"use strict";

const text = new TextDecoder("utf-8", { fatal: true });

function fromBase64url(encoded) {
  const plain = atob(encoded.replace(/-/g, "+").replace(/_/g, "/"));
  return Uint8Array.from(plain, (letter) => letter.charCodeAt(0));
}

async function sha256(bytes) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// RFC 8949, as far as a package needs it: integers, floats, texts, lists, maps, true, false, null.
function fromCbor(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = 0;
  function argument(short) {
    if (short < 24) return BigInt(short);
    const size = { 24: 1, 25: 2, 26: 4, 27: 8 }[short];
    if (size === undefined) throw new Error("not a package");
    let value = 0n;
    for (let place = 0; place < size; place++) value = (value << 8n) | BigInt(view.getUint8(at++));
    return value;
  }
  function half(bits) {
    const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
    if (exponent === 0) return sign * fraction * 2 ** -24;
    return exponent === 31 ? (fraction ? NaN : sign * Infinity) : sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
  }
  function simple(short) {
    if (short === 20 || short === 21) return short === 21;
    if (short === 22) return null;
    const start = at;
    at += { 25: 2, 26: 4, 27: 8 }[short] ?? NaN;
    if (short === 25) return half(view.getUint16(start));
    if (short === 26) return view.getFloat32(start);
    if (short === 27) return view.getFloat64(start);
    throw new Error("not a package");
  }
  function item() {
    const first = view.getUint8(at++), kind = first >> 5, short = first & 31;
    if (kind === 7) return simple(short);
    const value = argument(short), count = Number(value);
    const number = (whole) => (whole <= 9007199254740991n && whole >= -9007199254740991n ? Number(whole) : whole.toString());
    if (kind === 0) return number(value);
    if (kind === 1) return number(-1n - value);
    if (kind === 3) {
      at += count;
      return text.decode(bytes.subarray(at - count, at));
    }
    if (kind === 4) return Array.from({ length: count }, item);
    if (kind === 5) return new Map(Array.from({ length: count }, () => [item(), item()]));
    throw new Error("not a package");
  }
  const found = item();
  if (at !== bytes.length) throw new Error("not a package");
  return found;
}

// The payload of a compact JWS of this kind, once the key has been found to have signed it.
async function opened(token, key, kind) {
  const parts = token.split(".");
  if (parts.length !== 3) throw new Error("not a signed document");
  const header = JSON.parse(text.decode(fromBase64url(parts[0])));
  if (header.alg !== "EdDSA" || header.typ !== `aimer2-${kind}+jws`) throw new Error("signed as something else");
  const imported = await crypto.subtle.importKey("raw", fromBase64url(key), { name: "Ed25519" }, false, ["verify"]);
  const signed = new TextEncoder().encode(`${parts[0]}.${parts[1]}`);
  if (!(await crypto.subtle.verify({ name: "Ed25519" }, imported, fromBase64url(parts[2]), signed))) throw new Error("the signature does not hold");
  return JSON.parse(text.decode(fromBase64url(parts[1])));
}

async function canCheck() {
  try {
    await crypto.subtle.generateKey({ name: "Ed25519" }, false, ["sign", "verify"]);
    return true;
  } catch {
    return false;
  }
}

// Every check: what, whether it holds, what was found. `study` and `result` are there where they could be read.
async function check(record) {
  const found = { findings: [], study: null, result: null, decisions: new Map(), stages: [], evaluations: [] };
  const tell = (what, holds, told) => found.findings.push({ what, holds, told });
  const attempt = async (what, work) => {
    try {
      tell(what, true, await work());
    } catch (error) {
      tell(what, false, error.message);
    }
  };
  await attempt("result", async () => {
    found.result = await opened(record.result, record.key, "result");
    if (found.result.study !== record.study) throw new Error("it is of another study");
    return "signed with the coordinator's key below";
  });
  await attempt("study", async () => {
    const bytes = fromBase64url(record.package), digest = await sha256(bytes);
    if (digest !== record.study) throw new Error(`its digest is ${digest}`);
    found.study = fromCbor(bytes);
    return `its SHA-256 is ${digest}`;
  });
  if (found.result === null || found.study === null) return found;
  await attempt("lineage", async () => {
    if (found.result.lineage.initial !== found.study.get("initial").get("sha256")) throw new Error("the untrained weights are not the study's");
    for (const [name, ref] of found.study.get("files")) {
      if (found.result.lineage.code[name] !== ref.get("sha256")) throw new Error(`${name} is not the study's`);
    }
    const models = found.result.lineage.models;
    if (models.length && models[models.length - 1] !== found.result.model.sha256) throw new Error("the model is not that of the last round");
    return "untrained weights, code and final model are those of the study";
  });
  const roster = found.study.get("roster");
  for (const statement of record.decisions) {
    for (const [site, key] of roster) {
      const decision = await opened(statement, key, "decision").catch(() => null);
      if (decision && decision.site === site && decision.study === record.study) found.decisions.set(site, decision);
    }
  }
  for (const [site, part] of Object.entries(found.result.sites)) {
    if (part.rounds === 0) continue;
    await attempt(`approval of ${site}`, async () => {
      const decision = found.decisions.get(site);
      if (!decision) throw new Error("there is no decision signed with the key that the study has of it");
      if (decision.decision === "refuse") throw new Error("it refused");
      return `signed at the site by ${decision.by}${decision.decision === "withdraw" ? ", withdrawn since" : ""}`;
    });
  }
  for (const statement of record.stages) {
    await attempt("stage", async () => {
      const stage = await opened(statement, record.key, "stage");
      if (stage.study !== record.study || stage.model !== found.result.model.sha256) throw new Error("it is about other weights");
      found.stages.push(stage);
      return `${stage.stage} by ${stage.by}: ${stage.reason}`;
    });
  }
  for (const statement of record.evaluations) {
    await attempt("evaluation", async () => {
      const result = await opened(statement, record.key, "result"), about = result.evaluation;
      if (!about || about.of !== record.study || result.model.sha256 !== found.result.model.sha256) throw new Error("it is of another model");
      found.evaluations.push(result);
      return `by ${result.name}, study ${result.study}`;
    });
  }
  return found;
}

// -- what is shown

function element(name, content, parent) {
  const made = document.createElement(name);
  if (content !== undefined) made.textContent = content;
  if (parent) parent.append(made);
  return made;
}

function table(parent, head, rows) {
  const made = element("table", undefined, parent), headRow = element("tr", undefined, element("thead", undefined, made));
  for (const cell of head) element("th", cell, headRow).scope = "col";
  const body = element("tbody", undefined, made);
  for (const row of rows) {
    const line = element("tr", undefined, body);
    for (const cell of row) element("td", cell === null || cell === undefined ? "" : String(cell), line);
  }
}

function plain(value) {
  if (value instanceof Map) return Object.fromEntries(Array.from(value, ([name, inner]) => [name, plain(inner)]));
  return Array.isArray(value) ? value.map(plain) : value;
}

function rounded(value) {
  return typeof value === "number" ? value.toPrecision(4).replace(/\.?0+$/, "") : value;
}

function showFigures(main, title, figures) {
  element("h2", title, main);
  const interval = (one) => (one.low === null || one.high === null ? "" : `${rounded(one.low)} to ${rounded(one.high)}`);
  table(main, ["figure", "value", "95 % interval", "patients", "note"],
    figures.map((one) => [one.name, one.value === null ? "undefined" : rounded(one.value), interval(one), rounded(one.n), one.note]));
}

function show(main, record, found) {
  const failed = found.findings.filter((one) => !one.holds).length;
  const verdict = element("p", failed ? `${failed} of ${found.findings.length} checks FAIL.` : `All ${found.findings.length} checks hold.`, main);
  verdict.className = failed ? "fails" : "holds";
  verdict.setAttribute("role", "status");
  table(main, ["checked", "holds", "found"], found.findings.map((one) => [one.what, one.holds ? "yes" : "NO", one.told]));
  element("p", `The coordinator's key: ${record.key}. Compare it with what its operator tells you; the page cannot know it.`, main);
  if (found.result === null || found.study === null) return;
  const result = found.result;
  element("h2", "Question", main);
  element("p", result.question, main);
  table(main, ["", ""], [["led by", result.principal_investigator], ["ethics approval", result.ethics], ["begun", result.started],
    ["finished", result.finished], ["method", `${result.method.name} version ${result.method.version}`], ["study", result.study]]);
  element("h2", "Sites", main);
  table(main, ["site", "decision", "by", "rounds", "absences"], Object.entries(result.sites).map(([site, part]) => {
    const decision = found.decisions.get(site);
    const absences = part.absences.map((one) => `${one.stage} ${one.round}: ${one.outcome} ${one.reason}`).join("; ");
    return [site, decision ? decision.decision : "none", decision ? decision.by : "", part.rounds, absences];
  }));
  const patients = (one) => (one.evaluation && one.evaluation.held_out === 1 ? "of all patients of the sites" : "of the patients held out at all sites");
  const sites = (one) => Object.entries(one.sites).flatMap(([site, part]) => (part.rounds ? [site] : [])).join(", ");
  if (result.figures.length) showFigures(main, `Figures, ${patients(result)}`, result.figures);
  for (const one of found.evaluations) showFigures(main, `Evaluated by ${one.name}, ${patients(one)}: ${sites(one)}`, one.figures);
  for (const [site, figures] of Object.entries(result.released)) showFigures(main, `Figures that ${site} released`, figures);
  for (const answer of result.tables ?? []) {
    element("h2", `${answer.analysis}: ${answer.title}`, main);
    table(main, answer.columns, answer.rows.map((row) => row.map(rounded)));
    table(main, ["", ""], Object.entries(answer.facts).map(([name, value]) => [name, rounded(value)]));
    for (const note of answer.notes) element("p", note, main);
  }
  element("h2", "Privacy", main);
  element("p", result.privacy.statement, main);
  element("h2", "Rounds", main);
  table(main, ["stage", "round", "took part", "seconds", "model"],
    result.rounds.map((one) => [one.stage, one.round, one.took_part.join(", "), one.seconds, one.model ?? ""]));
  element("h2", "The study as it was approved", main);
  element("pre", JSON.stringify(plain(found.study), null, 1), main);
}

async function begin() {
  const main = document.querySelector("main");
  document.querySelector("noscript")?.remove();
  const record = JSON.parse(document.getElementById("record").textContent);
  if (!(await canCheck())) {
    const told = "This browser cannot check Ed25519 signatures. Chromium 137, Firefox 129, Safari 17 and later can.";
    element("p", told, main).className = "fails";
    return;
  }
  show(main, record, await check(record));
}

if (typeof document === "undefined") Object.assign(globalThis, { check, plain });
else begin();
