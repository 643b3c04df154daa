// Compiles the kernels that kernels.rs has written with Tint, the compiler of WGSL in Chromium, and makes the
// pipelines.
//
//     node check.mjs KERNELS.json
//
// Tint comes with Dawn for Node (npm package `webgpu`). The device is Dawn's null backend: it has the default limits of
// WebGPU, validates as any other and needs neither a GPU nor a driver. What a driver makes of a kernel is not seen
// here.

import { readFileSync } from "node:fs";
import { create, globals } from "webgpu";

const { preludes, kernels, broken } = JSON.parse(readFileSync(process.argv[2], "utf8"));
const COMPUTE = globals.GPUShaderStage.COMPUTE;
globalThis.gpu = create(["backend=null"]); // Dawn ends when this is collected
const adapter = await globalThis.gpu.requestAdapter();
const device = await adapter.requestDevice({ requiredFeatures: ["subgroups"] });

// A layout for each set of bindings.
const layouts = new Map();
function layout(bindings) {
  const key = JSON.stringify(bindings);
  if (!layouts.has(key)) {
    const entries = bindings.map(([binding, type]) => ({ binding, visibility: COMPUTE, buffer: { type } }));
    layouts.set(key, device.createPipelineLayout({ bindGroupLayouts: [device.createBindGroupLayout({ entries })] }));
  }
  return layouts.get(key);
}

// Whether `text` calls a function of `prelude`.
const uses = (prelude, text) => [...prelude.text.matchAll(/\bfn (\w+)/g)].some(([, name]) => text.includes(`${name}(`));

// Compiles a kernel behind `front`, then a pipeline for each entry point. Gives what Tint and Dawn say of it: findings
// and the worst of their kinds.
async function compile(kernel, front) {
  const code = kernel.enable.map((name) => `enable ${name};\n`).join("") + front + kernel.text;
  const lines = code.split("\n");
  device.pushErrorScope("validation");
  const module = device.createShaderModule({ code });
  const { messages } = await module.getCompilationInfo();
  const refused = await device.popErrorScope();
  const said = messages.map((m) => `${m.type}, line ${m.lineNum}: ${m.message}\n      ${(lines[m.lineNum - 1] ?? "").trim()}`);
  if (refused) {
    return { worst: "error", findings: said.length > 0 ? said : [refused.message] };
  }
  for (const [entryPoint, bindings] of kernel.entries) {
    device.pushErrorScope("validation");
    device.createComputePipeline({ layout: layout(bindings), compute: { module, entryPoint } });
    const error = await device.popErrorScope();
    if (error) {
      return { worst: "error", findings: [...said, `pipeline of ${entryPoint}: ${error.message}`] };
    }
  }
  return { worst: said.length > 0 ? "warning" : "none", findings: said };
}

let [texts, pipelines] = [0, 0];
const count = { error: 0, warning: 0, none: 0 };
for (const kernel of kernels) {
  const fronts = preludes.filter((prelude) => uses(prelude, kernel.text));
  for (const { name, text } of fronts.length > 0 ? fronts : preludes.slice(0, 1)) {
    const { worst, findings } = await compile(kernel, text);
    if (worst !== "none") {
      console.log([`${worst}: ${kernel.name} { ${kernel.constants} }, prelude with ${name}`, ...findings].join("\n    "));
    }
    count[worst] += 1;
    texts += 1;
    pipelines += kernel.entries.length;
  }
}
// What must be refused shows that the check can fail.
let seen = 0;
for (const kernel of broken) {
  if ((await compile(kernel, "")).worst === "error") {
    seen += 1;
  } else {
    console.log(`error: broken/${kernel.name}.wgsl was not refused`);
  }
}
console.log(
  `${texts} texts of ${kernels.length} kernels with ${pipelines} pipelines: ${count.error} refused, ${count.warning} with warnings; ` +
    `${seen} of ${broken.length} broken texts refused`,
);
// Dawn keeps node alive; leaving also keeps it from tearing down in an order of its own.
process.exit(count.error === 0 && texts > 0 && seen > 0 && seen === broken.length ? 0 : 1);
