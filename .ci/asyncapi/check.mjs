// Checks an AsyncAPI document: node check.mjs FILE. Ends 1 and names what is wrong when the parser finds a fault, or
// when a sample breaks its own schema (which the parser does not look at).
import { readFile } from "node:fs/promises";
import { DiagnosticSeverity, Parser } from "@asyncapi/parser";
import Ajv from "ajv";
import addFormats from "ajv-formats";

const [file] = process.argv.slice(2);
const text = await readFile(file, "utf8");
const { document, diagnostics } = await new Parser().parse(text);
const faults = diagnostics
  .filter((d) => d.severity === DiagnosticSeverity.Error)
  .map((d) => `${d.path.join(".")}: ${d.message}`);

const { components } = JSON.parse(text);
const ajv = new Ajv({ allErrors: true, strictSchema: false });
addFormats(ajv);
ajv.addSchema({ $id: "doc", components });
let samples = 0;
for (const [name, message] of Object.entries(components.messages)) {
  const valid = ajv.compile({ $ref: `doc${message.payload.$ref}` });
  for (const example of message.examples) {
    samples++;
    if (!valid(example.payload)) faults.push(`sample of ${name}: ${ajv.errorsText(valid.errors, { dataVar: "" })}`);
  }
}
if (document && samples === 0) faults.push("no samples");
for (const fault of faults) console.error(`${file}: ${fault}`);
if (!document || faults.length > 0) process.exit(1);
console.log(`asyncapi: ${document.channels().length} channels and ${samples} samples are fine`);
