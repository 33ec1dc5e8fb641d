// Verifies the bundle of a run, made from docs/evidence-format.md. Node 18 or later, nothing else.
// node verify.mjs BUNDLE [VERIFIER_KEY]   exits 0: good, 1: bad, 2: unusable
import { createHash, createPublicKey, verify as verifySignature } from "node:crypto";
import { readFileSync } from "node:fs";
const hex = (bytes) => bytes.toString("hex"), utf8 = (bytes) => new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
const sha256 = (...parts) => parts.reduce((hash, part) => hash.update(part), createHash("sha256")).digest();
const [leafHash, nodeHash] = [0, 1].map((tag) => (...parts) => sha256(Buffer.of(tag), ...parts));
const framed = (...texts) => sha256(...texts.flatMap((text) => [Buffer.from(Buffer.byteLength(text).toString(16).padStart(8, "0"), "hex"), text]));
const need = (truth, reason) => { if (!truth) throw new Error(reason); };
function canonical(value) {
  if (Array.isArray(value)) return `[${value.map(canonical).join()}]`;
  if (value !== null && typeof value === "object") {
    const names = Object.keys(value).sort();
    need(names.every((name) => /^[\x00-\x7f]*$/.test(name)), "has a name that is not ASCII");
    return `{${names.map((name) => `${JSON.stringify(name)}:${canonical(value[name])}`).join()}}`;
  }
  const plain = { string: !/\p{Surrogate}/u.test(value), number: Number.isSafeInteger(value), boolean: true };
  need(plain[typeof value], "has null, a float, or half a character");
  return JSON.stringify(value);
}
const read = (text) => need(canonical(JSON.parse(text)) === text && text[0] === "{", "is not in canonical form") ?? JSON.parse(text);
const base64 = (text) => need(Buffer.from(text, "base64").toString("base64") === text, "is not base64") ?? Buffer.from(text, "base64");
function rootOf(hashes) { // RFC 6962, 2.1
  if (hashes.length < 2) return hashes[0] ?? sha256();
  const half = 2 ** (31 - Math.clz32(hashes.length - 1));
  return nodeHash(rootOf(hashes.slice(0, half)), rootOf(hashes.slice(half)));
}
function rootFromProof(index, size, leaf, proof) { // RFC 9162, 2.1.3.2; divides, as shifts have 32 bits
  need(Number.isSafeInteger(index) && index >= 0 && index < size, "stands beyond the end of the tree");
  let [number, last, value] = [index, size - 1, leaf];
  const up = () => { [number, last] = [Math.floor(number / 2), Math.floor(last / 2)]; };
  for (const step of proof) {
    need(last > 0 && /^[0-9a-f]{64}$/.test(step), "has a proof that is none");
    const isRight = number % 2 === 1 || number === last;
    value = isRight ? nodeHash(Buffer.from(step, "hex"), value) : nodeHash(value, Buffer.from(step, "hex"));
    while (isRight && number % 2 === 0 && number) up();
    up();
  }
  need(last === 0, "has a proof that is too short");
  return hex(value);
}
function keyOf(text) { // <name>+<hash>+<base64(0x01 || public key)>
  const [, name, hash, material] = /^([^+\s]+)\+([0-9a-f]{8})\+(\S+)$/.exec(text) ?? need(false, "is not a verifier key");
  const bytes = base64(material);
  need(bytes.length === 33 && bytes[0] === 1 && hex(sha256(`${name}\n`, bytes).subarray(0, 4)) === hash, "is not a key of Ed25519, or of another hash");
  const key = createPublicKey({ format: "jwk", key: { kty: "OKP", crv: "Ed25519", x: bytes.subarray(1).toString("base64url") } });
  return { text, name, hash, verifies: (message, signature) => verifySignature(null, Buffer.from(message), key, signature) };
}
function openNote(note, keys) { // gives the lines of the text
  const [, text, signatures] = /^(.+\n)\n([^\n].*)\n$/s.exec(note) ?? need(false, "is not a signed note");
  const signers = signatures.split("\n").map((line) => {
    const [, name, packed] = /^— (\S+) (\S+)$/.exec(line) ?? need(false, "has a line that is no signature");
    const key = keys.find((one) => one.name === name && one.hash === hex(base64(packed).subarray(0, 4)));
    need(!key || key.verifies(text, base64(packed).subarray(4)), "has a signature that does not verify");
    return key;
  });
  need(signers.some((key) => key), "is not signed by a key that is trusted");
  return text.slice(0, -1).split("\n");
}
function chainOf({ root_key, certificates }, trusted) {
  const keys = [keyOf(root_key)];
  for (const certificate of certificates) {
    const [title, number, key] = openNote(certificate, keys.slice(-1));
    need(title === `${keys[0].name}/key` && number === `${keys.length + 1}`, "are not of these keys");
    keys.push(keyOf(key));
  }
  const from = trusted ? keys.findIndex((key) => key.text === trusted) : 0;
  need(from >= 0 && keys.every((key) => key.name === keys[0].name), "do not follow from the key that is trusted");
  return keys.slice(from);
}
function checkEntry({ entry: text, proof, items }, bundle, checkpoint) {
  const entry = read(text);
  need(entry.version === 1 && entry.log === bundle.tenant, "is not of this log");
  const root = checkpoint && rootFromProof(entry.index, checkpoint.size, leafHash(text), proof);
  need(root === checkpoint?.root, "is not what the log has at this number");
  need(items.length || (entry.subject?.run === bundle.run && !entry.items), "has nothing to do with this run");
  items.forEach(({ position, item, proof: steps }, n) => {
    need(isWhole(read(item)) && read(item).run === bundle.run && !(position <= items[n - 1]?.position), "has an item of another run, or out of order");
    need(rootFromProof(position, entry.items.count, leafHash(item), steps) === entry.items.root, "has an item that did not happen by it");
  });
}
const isWhole = ({ task, tasks }) => tasks === undefined || (Array.isArray(tasks) && tasks.length > 1 && task === undefined);
const eventsOf = ({ tasks, ...item }) => tasks?.map((task, n) => ({ ...item, seq: item.seq + n, task })) ?? [item]; // one for each task
function isDue({ trigger, depends_on }, ends) { // by how what it depends on has ended
  const all = depends_on.map((one) => ends.get(one)), isWell = (end) => /^(succeeded|skipped)$/.test(end), rules = { all_done: Boolean, none_failed: isWell };
  return trigger === "any_failed" ? all.some((end) => end && !isWell(end)) : all.every(rules[trigger] ?? ((end) => end === "succeeded"));
}
const digestOf = (text) => `sha256:${hex(sha256(text))}`, planOf = (text) => new Map(JSON.parse(text).tasks.map((task) => [task.key, task]));
const declaredIn = (plan, task) => plan.get(task) ?? plan.get(task.replace(/\[\d+\]$/, "")); // KEY[0] is an item of KEY
function move({ seq, definition, previous }, past, plans) { // the run goes on under another definition
  const [before, plan] = [plans.get(previous), plans.get(definition)], isSame = (task) => declaredIn(before, task)?.kind === declaredIn(plan, task).kind;
  const fits = ([task, end]) => declaredIn(plan, task) && (!/^(succeeded|failed)$/.test(end) || (isSame(task) && isDue(declaredIn(plan, task), past.ends)));
  need(previous === past.definition && before && plan && !past.leased.size, `has event ${seq}, which moves the run while a task is leased, or between other definitions than those of the bundle`);
  need([...past.ends].filter(([task]) => !task.includes("~")).every(fits), `has event ${seq}, which moves the run to a definition that does not fit`);
  [...past.terms.keys()].filter((task) => !declaredIn(plan, task)).forEach((task) => past.terms.delete(task)); // may come back as another task
  past.moved.push(past.definition = definition);
}
function follow(event, past, plans) { // what may follow what in a run
  const { seq, kind, task, term, result } = event;
  need(seq === past.seq + 1 && (kind === "run.started") === (seq === 1) && (!past.ended || kind === "run.reopened"), `has event ${seq} too early or late`);
  [past.seq, past.ended] = [seq, /^run\.(succeeded|failed|cancelled|closed)$/.test(kind)];
  if (kind === "run.started") past.definition = event.definition;
  if (kind === "run.moved") move(event, past, plans);
  if (/^task\.(succeeded|failed|retrying|lease_\w+|upstream_failed|cancelled|skipped)$/.test(kind)) past.leased.delete(task);
  const plan = plans.get(past.definition);
  const end = /^task\.(succeeded|failed|upstream_failed|cancelled|skipped)$/.exec(kind)?.[1], report = result || end === "succeeded";
  if (kind === "task.leased") {
    const declared = plan && declaredIn(plan, task);
    need(term > (past.terms.get(task) ?? -1) && !past.ends.has(task), `has event ${seq}, whose term does not grow`);
    need(!plan || (declared && isDue(declared, past.ends)), `has event ${seq}, a lease too early`);
  } else if (/^task\.(succeeded|failed|retrying)$/.test(kind) && term !== undefined) {
    need((past.terms.get(task) ?? 0) === term && !(report && past.results.has(`${term} ${task}`)), `has event ${seq}, a result too many`);
    report && past.results.add(`${term} ${task}`);
  }
  if (kind === "task.leased") past.leased.add(task);
  if (/^task\.(leased|reopened)$/.test(kind)) past.terms.set(task, term);
  kind === "task.reopened" ? past.ends.delete(task) : end && past.ends.set(task, end);
}
const faults = []; // { place: in the bundle or null, index: in the log or null, reason }
function attempt(what, place, index, check) { // gives undefined when the check failed
  try { return check() ?? true; } catch (error) { faults.push({ place, index, reason: `${what} ${error.message}` }); }
}
function checkAll(file, trusted) {
  const envelope = read(utf8(file)), payload = base64(envelope.payload);
  const { predicateType, predicate: bundle, subject: [run, workflow] } = read(utf8(payload));
  need(predicateType === "urn:tenure:run-evidence:v1", "is not the evidence of a run");
  const keys = attempt("the keys", null, null, () => chainOf(bundle, trusted));
  const checkpoint = keys && attempt("the checkpoint", null, null, () => {
    const [origin, size, root] = openNote(bundle.checkpoint, keys);
    need(origin === `tenure.v1/${bundle.installation}/${bundle.tenant}`, "is of another log");
    return { size: Number(size), root: hex(base64(root)) };
  });
  const indexes = bundle.entries.map(({ entry }) => { try { return JSON.parse(entry).index; } catch { return null; } });
  const proven = bundle.entries.map((part, place) => attempt("the entry", place, indexes[place], () => checkEntry(part, bundle, checkpoint)));
  const good = proven.map((yes, place) => yes && attempt("the entry", place, indexes[place], () => {
    const wrong = (other, n) => proven[n] && (n > place ? other < indexes[place] : n < place && other === indexes[place]);
    need(!indexes.some(wrong), "stands before one it comes after, or twice");
  }));
  const items = bundle.entries.map((part, place) => good[place] ? part.items.flatMap(({ item }) => eventsOf(JSON.parse(item))) : []);
  const start = items.flat()[0], definitionHash = hex(sha256(bundle.definition)), isDefinition = start?.definition === `sha256:${definitionHash}`;
  const constitution = `sha256:${hex(framed(bundle.constitution.platform, bundle.constitution.tenant))}`;
  const isStart = start?.kind !== "run.started" || (isDefinition && start.constitution === constitution);
  attempt("the run", null, null, () => need(isStart, "was started under another definition or constitution"));
  const later = bundle.moved_to ?? [], plans = new Map((isDefinition ? [bundle.definition, ...later] : []).map((text) => [digestOf(text), planOf(text)]));
  const past = { seq: 0, ended: false, terms: new Map(), ends: new Map(), results: new Set(), leased: new Set(), moved: [] };
  items.every((row, place) => good[place] && attempt("the entry", place, indexes[place], () => row.forEach((item) => follow(item, past, plans))));
  attempt("the moves", null, null, () => need(faults.length || `${past.moved}` === `${later.map(digestOf)}`, "lead to other definitions than those of the bundle"));
  attempt("the subject", faults.length || past.ended ? null : items.length, null, () => {
    const root = rootOf(bundle.entries.flatMap((part) => part.items.map(({ item }) => leafHash(item))));
    need(run.digest.sha256 === hex(root) && workflow.digest.sha256 === definitionHash, "has a digest that is not its own");
    need(workflow.name.startsWith(`workflow/${JSON.parse(bundle.definition).name}@`) && run.name === `run/${bundle.run}`, "is another one");
  });
  attempt("the envelope", null, null, () => {
    const [{ keyid, sig }, ...more] = envelope.signatures;
    need(keys && !more.length && keyid === keys.at(-1).hash, "is not signed by the newest key");
    const signed = `DSSEv1 ${envelope.payloadType.length} ${envelope.payloadType} ${payload.length} ${utf8(payload)}`;
    need(keys.at(-1).verifies(signed, base64(sig)), "has a signature that does not verify");
  });
}
const [path, trusted] = process.argv.slice(2);
const usable = attempt("the input", null, null, () => (trusted && keyOf(trusted), readFileSync(path)));
if (usable) attempt("the bundle", null, null, () => checkAll(usable, trusted));
const [first] = faults.filter(({ place }) => place !== null).sort((one, other) => one.place - other.place);
const first_bad_entry = first ? { position: first.place, index: first.index ?? null } : null;
console.log(JSON.stringify({ ok: !faults.length, first_bad_entry, reason: (first ?? faults[0])?.reason ?? "" }));
process.exitCode = !usable ? 2 : faults.length ? 1 : 0;
