//! Elementwise expressions as WGSL: fills the template `wgsl/map.wgsl.in`.
//!
//! The text holds the expression, its constants, the dtypes and the way each input is read; sizes, strides, random
//! streams and thresholds are uniforms. So layers that do the same share a pipeline. CPU twin: `core/src/cpu/map.rs`,
//! whose order of evaluation is kept.

use crate::BindingKind;
use mantissa_core::DType;
use mantissa_core::op::map::{BinaryFn, MapExpr, Node, NodeId};
use std::fmt::Write as _;

/// Elements of a workgroup: four for each of 256 invocations.
pub const GROUP: usize = 4 * 256;

/// How an input is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// By length and stride (elements) of collapsed axes, outermost first, never none: `[[n, 1]]` is the whole, `[[n,
    /// 0]]` one element.
    Axes(Vec<[usize; 2]>),
    /// The old contents of this output, which has the input's shape and dtype.
    InPlace(usize),
    /// `[seed, step]` of random nodes.
    Random,
}

/// One input of the instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// Storage dtype.
    pub dtype: DType,
    /// How it is read.
    pub access: Access,
    /// It shares a buffer with an output, so it must be bound for writing too: a dispatch has one use for a buffer.
    pub beside_output: bool,
}

/// An operand behind a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// Input by number.
    Input(usize),
    /// Output by number.
    Output(usize),
}

/// A generated kernel; its entry point is `map`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapKernel {
    /// The whole text.
    pub text: String,
    /// Number and use of each binding; the uniform struct is number 0.
    pub bindings: Vec<(u32, BindingKind)>,
    /// What the storage bindings show. Inputs that nothing reads have none.
    pub args: Vec<(u32, Operand)>,
    /// Words of the uniform struct.
    pub uniform: Vec<u32>,
}

/// The kernel that evaluates `expr`, valid for these inputs, over `n` elements and stores each output as its dtype.
pub fn generate(expr: &MapExpr, inputs: &[Input], outputs: &[DType], n: usize) -> MapKernel {
    let expr = expr.dedupe();
    let mut p = Printer { inputs, params: vec![n as u32], ..Printer::default() };
    p.bind(&expr, outputs);
    for (i, node) in expr.nodes.iter().enumerate() {
        let float = p.node(i, *node);
        p.float.push(float);
    }
    for (k, (&node, &dtype)) in expr.outputs.iter().zip(outputs).enumerate() {
        p.store(k, dtype, node);
    }
    let fields: String = (1..p.params.len()).fold(String::new(), |s, i| s + &format!("p{i}: u32,\n"));
    let parts = [("params", fields), ("bindings", p.declarations), ("loads", p.loads), ("body", p.body), ("stores", p.stores)];
    let text = parts.iter().fold(crate::MAP_TEMPLATE.to_string(), |t, (name, part)| t.replace(&format!("${{{name}}}"), part));
    MapKernel { text, bindings: p.bindings, args: p.args, uniform: p.params }
}

/// Type of four elements in memory.
fn four(dtype: DType) -> &'static str {
    match dtype.size_bytes() {
        1 => "u32",
        2 => "vec2<u32>",
        _ => "vec4<u32>",
    }
}

/// The word of element `k` among four in the variable `name`.
fn word(dtype: DType, name: &str) -> String {
    match dtype.size_bytes() {
        1 => name.into(),
        2 => format!("{name}[k >> 1u]"),
        _ => format!("{name}[k]"),
    }
}

/// The text under construction. A node is a variable `v<index>` that holds a value, or its bits where nothing was
/// computed.
#[derive(Default)]
struct Printer<'a> {
    inputs: &'a [Input],
    params: Vec<u32>,
    bindings: Vec<(u32, BindingKind)>,
    args: Vec<(u32, Operand)>,
    declarations: String,
    loads: String,
    body: String,
    stores: String,
    /// Whether each node so far is a value rather than bits.
    float: Vec<bool>,
}

impl Printer<'_> {
    /// Declares the operands that are used.
    fn bind(&mut self, expr: &MapExpr, outputs: &[DType]) {
        self.bindings.push((0, BindingKind::Uniform));
        for (n, input) in self.inputs.iter().enumerate() {
            let name = format!("x{n}");
            let kind = if input.beside_output { BindingKind::ReadWrite } else { BindingKind::Read };
            match &input.access {
                _ if !expr.nodes.iter().any(|node| node.input() == Some(n as u16)) => {}
                Access::InPlace(k) => self.loads += &format!("let {name}_four = y{k}[four];\n"),
                Access::Axes(axes) if is_whole(axes) => {
                    self.declare(&name, four(input.dtype), kind, Operand::Input(n));
                    self.loads += &format!("let {name}_four = {name}[four];\n");
                }
                Access::Axes(_) | Access::Random => self.declare(&name, "u32", kind, Operand::Input(n)),
            }
        }
        for (k, dtype) in outputs.iter().enumerate() {
            self.declare(&format!("y{k}"), four(*dtype), BindingKind::ReadWrite, Operand::Output(k));
            self.loads += &format!("var y{k}_four = {}();\n", four(*dtype));
            self.stores += &format!("y{k}[four] = y{k}_four;\n");
        }
    }

    fn declare(&mut self, name: &str, element: &str, kind: BindingKind, operand: Operand) {
        let number = self.bindings.len() as u32;
        let access = if kind == BindingKind::Read { "read" } else { "read_write" };
        let _ = writeln!(self.declarations, "@group(0) @binding({number}) var<storage, {access}> {name}: array<{element}>;");
        self.bindings.push((number, kind));
        self.args.push((number, operand));
    }

    /// A field of the uniform struct.
    fn param(&mut self, value: u32) -> String {
        self.params.push(value);
        format!("params.p{}", self.params.len() - 1)
    }

    /// Node `id` as a value.
    fn value(&self, id: NodeId) -> String {
        if self.float[usize::from(id)] { format!("v{id}") } else { format!("bitcast<f32>(v{id})") }
    }

    /// Node `id` as bits.
    fn bits(&self, id: NodeId) -> String {
        if self.float[usize::from(id)] { format!("bitcast<u32>(v{id})") } else { format!("v{id}") }
    }

    /// Adds the statement of node `i`; whether it is a value.
    fn node(&mut self, i: usize, node: Node) -> bool {
        let (float, text) = match node {
            Node::Input(n) => (false, self.load(usize::from(n))),
            Node::Const(bits) => (true, format!("from_bits({bits:#x}u)")),
            Node::Round(dtype, x) => (false, round(dtype, &self.bits(x))),
            Node::Unary(f, x) => (true, format!("{}_f32({})", f.name(), self.value(x))),
            Node::Binary(f, a, b) => (true, binary(f, &self.value(a), &self.value(b))),
            Node::Select([c, a, b]) => {
                // Nonzero, NaN included.
                (false, format!("select({}, {}, ({} << 1u) != 0u)", self.bits(b), self.bits(a), self.bits(c)))
            }
            Node::Dropout { x, rng, stream, threshold, scale } => {
                let word = self.random_word(i, rng, stream);
                let (threshold, scale) = (self.param(threshold), self.param(scale));
                let kept = format!("bitcast<u32>({} * bitcast<f32>({scale}))", self.value(x));
                (false, format!("select(0u, {kept}, {word} >= {threshold})"))
            }
            Node::Uniform { rng, stream } => {
                let word = self.random_word(i, rng, stream);
                // 2^-24.
                (true, format!("f32({word} >> 8u) * 0x1p-24f"))
            }
        };
        let _ = writeln!(self.body, "let v{i} = {text};");
        float
    }

    /// f32 bits of element `i` of an input.
    fn load(&mut self, n: usize) -> String {
        let dtype = self.inputs[n].dtype;
        let (word, at) = match self.inputs[n].access.clone() {
            Access::Axes(axes) if !is_whole(&axes) => {
                let at = self.index(n, &axes);
                (format!("x{n}[word_of({}, {at})]", constant(dtype)), at)
            }
            Access::Axes(_) | Access::InPlace(_) => (word(dtype, &format!("x{n}_four")), "k".into()),
            Access::Random => (format!("x{n}[0]"), "0u".into()),
        };
        decode(dtype, &code(dtype, &word, &at))
    }

    /// Index of element `i` in an input that is read by strides.
    fn index(&mut self, n: usize, axes: &[[usize; 2]]) -> String {
        let mut rest = "i".to_string();
        let mut terms = Vec::new();
        for (a, &[len, stride]) in axes.iter().enumerate().rev() {
            let outer = axes[..a].iter().any(|axis| axis[1] != 0);
            let len = if a > 0 && (outer || stride != 0) { self.param(len as u32) } else { String::new() };
            let along = if a > 0 { format!("{rest} % {len}") } else { rest.clone() };
            match stride {
                0 => {}
                1 => terms.push(along),
                _ => terms.push(format!("({along}) * {}", self.param(stride as u32))),
            }
            if !outer {
                break;
            }
            let _ = writeln!(self.body, "let x{n}_rest{a} = {rest} / {len};");
            rest = format!("x{n}_rest{a}");
        }
        if terms.is_empty() {
            return "0u".into();
        }
        let _ = writeln!(self.body, "let x{n}_at = {};", terms.join(" + "));
        format!("x{n}_at")
    }

    /// The random word of element `i` for node `node`. One call gives the words of an even element and the next.
    fn random_word(&mut self, node: usize, rng: u16, stream: u32) -> String {
        let stream = self.param(stream);
        let _ = writeln!(self.loads, "var v{node}_pair = vec2<u32>();");
        let key = format!("vec2<u32>(x{rng}[0], {stream})");
        let _ = writeln!(self.body, "if ((k & 1u) == 0u) {{");
        let _ = writeln!(self.body, "v{node}_pair = threefry2x32({key}, vec2<u32>(i >> 1u, x{rng}[1]));\n}}");
        format!("select(v{node}_pair.x, v{node}_pair.y, (k & 1u) == 1u)")
    }

    /// Stores a node as output `k`.
    fn store(&mut self, k: usize, dtype: DType, node: NodeId) {
        let (code, to) = (encode(dtype, &self.bits(node)), word(dtype, &format!("y{k}_four")));
        let _ = match dtype.size_bytes() {
            4 => writeln!(self.body, "{to} = {code};"),
            _ => writeln!(self.body, "{to} |= place_code({}, {code}, k);", constant(dtype)),
        };
    }
}

/// Whether axes walk a whole operand in order.
fn is_whole(axes: &[[usize; 2]]) -> bool {
    matches!(axes, [[_, 1]])
}

/// The code of element `at` in its word.
fn code(dtype: DType, word: &str, at: &str) -> String {
    match dtype.size_bytes() {
        4 => word.into(),
        _ => format!("code_of({}, {word}, {at})", constant(dtype)),
    }
}

/// Name of a dtype's constant in `shared/dtype.wgsl`.
fn constant(dtype: DType) -> String {
    dtype.name().to_uppercase()
}

/// f32 bits of a code.
fn decode(dtype: DType, code: &str) -> String {
    match dtype {
        DType::F32 | DType::Tf32 => code.into(),
        DType::F16 | DType::Bf16 | DType::E4m3 | DType::E5m2 | DType::E8m0 => format!("decode_{}({code})", dtype.name()),
        DType::U32 | DType::I32 => format!("decode_bits({}, {code})", constant(dtype)),
    }
}

/// Code of f32 bits.
fn encode(dtype: DType, bits: &str) -> String {
    match dtype {
        DType::F32 | DType::Tf32 => bits.into(),
        DType::F16 | DType::Bf16 | DType::E4m3 | DType::E5m2 | DType::E8m0 => format!("encode_{}({bits})", dtype.name()),
        DType::U32 | DType::I32 => format!("encode_integer({}, {bits})", constant(dtype)),
    }
}

/// f32 bits as if stored in a dtype and read back.
fn round(dtype: DType, bits: &str) -> String {
    match dtype {
        DType::Tf32 => format!("round_tf32({bits})"),
        DType::F32 | DType::F16 | DType::Bf16 | DType::E4m3 | DType::E5m2 | DType::E8m0 | DType::U32 | DType::I32 => {
            decode(dtype, &encode(dtype, bits))
        }
    }
}

fn binary(f: BinaryFn, a: &str, b: &str) -> String {
    match f {
        BinaryFn::Add => format!("{a} + {b}"),
        BinaryFn::Sub => format!("{a} - {b}"),
        BinaryFn::Mul => format!("{a} * {b}"),
        BinaryFn::Div => format!("{a} / {b}"),
        BinaryFn::Max | BinaryFn::Min | BinaryFn::Pow | BinaryFn::Lt | BinaryFn::Le | BinaryFn::Eq => {
            format!("{}_f32({a}, {b})", f.name())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mantissa_core::op::expr::Ex;
    use mantissa_core::op::map::UnaryFn;
    use naga::valid::{Capabilities, ValidationFlags, Validator};

    #[track_caller]
    fn validate(kernel: &MapKernel) {
        let text = format!("{}{}", crate::Prelude::default().text(), kernel.text);
        let module = naga::front::wgsl::parse_str(&text).unwrap_or_else(|e| panic!("{}", e.emit_to_string(&text)));
        let mut validator = Validator::new(ValidationFlags::all(), Capabilities::empty());
        validator.validate(&module).unwrap_or_else(|e| panic!("{}", e.emit_to_string(&text)));
        let span = module.global_variables.iter().find_map(|(_, v)| (v.space == naga::AddressSpace::Uniform).then_some(v.ty));
        let size = module.types[span.expect("a uniform struct")].inner.size(module.to_ctx());
        assert_eq!(size as usize, 4 * kernel.uniform.len());
        for (number, _) in &kernel.bindings {
            let found = module.global_variables.iter().any(|(_, v)| v.binding.as_ref().is_some_and(|b| b.binding == *number));
            assert!(found, "binding {number}");
        }
    }

    fn input(dtype: DType, axes: &[[usize; 2]]) -> Input {
        Input { dtype, access: Access::Axes(axes.to_vec()), beside_output: false }
    }

    #[test]
    fn every_function_is_valid() {
        let x = input(DType::F32, &[[10, 1]]);
        for f in UnaryFn::ALL {
            validate(&generate(&Ex::input(0).unary(f).finish(), std::slice::from_ref(&x), &[DType::F32], 10));
        }
        for f in BinaryFn::ALL {
            validate(&generate(&Ex::input(0).binary(f, Ex::input(1)).finish(), &[x.clone(), x.clone()], &[DType::F32], 10));
        }
        validate(&generate(
            &Ex::input(0).select(Ex::input(1), Ex::input(2)).finish(),
            &[x.clone(), x.clone(), x.clone()],
            &[DType::F32],
            10,
        ));
        for c in [0.0, -0.0, 1e-40, f32::MAX, f32::INFINITY, f32::NAN] {
            validate(&generate(&Ex::constant(c).finish(), &[], &[DType::F16], 10));
        }
    }

    #[test]
    fn every_pair_of_dtypes_is_valid() {
        for from in DType::ALL {
            for to in DType::ALL {
                validate(&generate(&Ex::input(0).finish(), &[input(from, &[[10, 1]])], &[to], 10));
                let mut rounded = Ex::input(0).finish();
                rounded.outputs[0] = rounded.push(Node::Round(to, 0));
                validate(&generate(&rounded, &[input(from, &[[2, 0], [5, 1]])], &[DType::F32], 10));
            }
        }
    }

    #[test]
    fn random_streams_and_sizes_are_uniforms() {
        let rng = Input { dtype: DType::U32, access: Access::Random, beside_output: false };
        let make = |p: f32, stream: u32, n: usize| {
            let expr = Ex::input(0).dropout(p, 1, stream).finish();
            generate(&expr, &[input(DType::Bf16, &[[n / 5, 1], [5, 0]]), rng.clone()], &[DType::Bf16], n)
        };
        let (a, b) = (make(0.1, 3, 10), make(0.2, 4, 20));
        validate(&a);
        assert_eq!(a.text, b.text);
        assert_ne!(a.uniform, b.uniform);
        validate(&generate(&Ex::node(Node::Uniform { rng: 0, stream: 1 }).finish(), &[rng], &[DType::F32], 9));
    }

    #[test]
    fn what_is_overwritten_is_bound_once() {
        let state = Input { dtype: DType::E4m3, access: Access::InPlace(0), beside_output: false };
        let other = Input { beside_output: true, ..input(DType::F32, &[[3, 20], [2, 1], [5, 4]]) };
        let kernel = generate(&Ex::input(0).binary(BinaryFn::Add, Ex::input(1)).finish(), &[state, other], &[DType::E4m3], 30);
        validate(&kernel);
        assert_eq!(kernel.args, [(1, Operand::Input(1)), (2, Operand::Output(0))]);
        assert_eq!(kernel.bindings[1..], [(1, BindingKind::ReadWrite), (2, BindingKind::ReadWrite)]);
    }

    #[test]
    fn the_template_is_filled() {
        let kernel = generate(&Ex::input(0).finish(), &[input(DType::F32, &[[10, 1]])], &[DType::F16], 10);
        assert!(!kernel.text.contains('$'));
        assert!(kernel.text.contains(&format!("const WG_SIZE: u32 = {}u;", GROUP / 4)));
    }
}
