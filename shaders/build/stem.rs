//! One stem: its directives, its text, what naga says of its defaults, its row in the table.

use super::repeat;
use super::validate::validate;
use naga::valid::{GlobalUse, ModuleInfo};
use naga::{AddressSpace, Module, ScalarKind, StorageAccess, TypeInner};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// Names of the dtypes, at the position that is their code. A test of the crate compares them with the format table.
const DTYPES: [&str; 9] = ["F32", "TF32", "F16", "BF16", "E4M3", "E5M2", "E8M0", "U32", "I32"];

/// What a constant may be.
enum Kind {
    Dtype,
    Bool,
    List(Vec<u32>),
}

struct Const {
    name: String,
    kind: Kind,
    default: u32,
}

impl Const {
    /// `X: dtype = F32`
    fn parse(text: &str) -> Result<Const, String> {
        let bad = || format!("`//% const {text}`: expected `NAME: dtype|bool|[1, 2] = value`");
        let (name, rest) = text.split_once(':').ok_or_else(bad)?;
        let (kind, value) = rest.split_once('=').ok_or_else(bad)?;
        let (kind, value) = (kind.trim(), value.trim());
        let number = |s: &str| s.trim().parse::<u32>().map_err(|_| bad());
        let (kind, default) = match kind {
            "dtype" => (Kind::Dtype, DTYPES.iter().position(|d| *d == value).ok_or_else(bad)? as u32),
            "bool" => (Kind::Bool, u32::from(value.parse::<bool>().map_err(|_| bad())?)),
            list => {
                let inner = list.strip_prefix('[').and_then(|l| l.strip_suffix(']')).ok_or_else(bad)?;
                (Kind::List(inner.split(',').map(number).collect::<Result<_, _>>()?), number(value)?)
            }
        };
        Ok(Const { name: name.trim().into(), kind, default })
    }

    fn domain(&self) -> Vec<u32> {
        match &self.kind {
            Kind::Dtype => (0..DTYPES.len() as u32).collect(),
            Kind::Bool => vec![0, 1],
            Kind::List(values) => values.clone(),
        }
    }

    fn wgsl(&self, value: u32) -> String {
        match self.kind {
            Kind::Bool => format!("const {}: bool = {};\n", self.name, value != 0),
            Kind::Dtype | Kind::List(_) => format!("const {}: u32 = {value}u;\n", self.name),
        }
    }
}

/// A stem with its imports in front.
pub(crate) struct Parsed {
    name: String,
    text: String,
    consts: Vec<Const>,
    /// What a device must be able to do, as variants of `Need`.
    needs: Vec<&'static str>,
}

impl Parsed {
    pub(crate) fn read(path: &Path) -> Result<Parsed, String> {
        let name = path.file_stem().and_then(|s| s.to_str()).ok_or("a file name that is text")?.to_string();
        let mut parsed = Parsed { name, text: String::new(), consts: Vec::new(), needs: Vec::new() };
        parsed.add(path, &mut Vec::new())?;
        Ok(parsed)
    }

    /// The text, without its constants.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Appends the imports of a file, then its code.
    fn add(&mut self, path: &Path, seen: &mut Vec<String>) -> Result<(), String> {
        let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let text = repeat::expand(&text)?;
        let folder = path.ancestors().find(|a| a.ends_with("wgsl")).ok_or("a file below wgsl/")?;
        let mut code = String::new();
        for line in text.lines() {
            match line.trim().strip_prefix("//%").map(str::trim) {
                None => {
                    // Comments and indentation are for readers of the repository.
                    let stripped = line.split("//").next().unwrap_or_default().trim();
                    if !stripped.is_empty() {
                        code.push_str(stripped);
                        code.push('\n');
                    }
                }
                Some(directive) => match directive.split_once(' ') {
                    Some(("import", names)) => {
                        for name in names.split(',').map(str::trim) {
                            if !seen.iter().any(|s| s == name) {
                                seen.push(name.into());
                                self.add(&folder.join("shared").join(format!("{name}.wgsl")), seen)?;
                            }
                        }
                    }
                    Some(("const", rest)) => self.consts.push(Const::parse(rest)?),
                    Some(("needs", what)) => {
                        for need in what.split(',').map(str::trim) {
                            self.needs.push(match need {
                                "subgroups" => "Subgroups",
                                "int64" => "Int64",
                                _ => return Err(format!("unknown need `{need}`: expected `subgroups` or `int64`")),
                            });
                        }
                    }
                    _ => {
                        return Err(format!(
                            "unknown directive `//% {directive}`: expected `import`, `const`, `needs` or `for`"
                        ));
                    }
                },
            }
        }
        self.text.push_str(&code);
        Ok(())
    }

    fn stitched(&self) -> String {
        let mut out: String = self.consts.iter().map(|c| c.wgsl(c.default)).collect();
        out.push_str(&self.text);
        out
    }

    /// What naga makes of the stem with its defaults behind `front`.
    pub(crate) fn reflect<const N: usize>(&self, front: &[Parsed; N]) -> Result<(Module, ModuleInfo), String> {
        let text = front.iter().map(|part| part.text.as_str()).chain([self.stitched().as_str()]).collect::<String>();
        let needs = |need: &str| self.needs.contains(&need) || front.iter().any(|part| part.needs.contains(&need));
        validate(&text, needs("Subgroups"), needs("Int64"))
    }

    /// The row of the table, as Rust.
    pub(crate) fn row<const N: usize>(&self, fronts: &[[Parsed; N]], (module, info): &(Module, ModuleInfo)) -> String {
        let mut out = String::new();
        let text = fronts.iter().flatten().map(|part| part.text.as_str()).chain([self.stitched().as_str()]).collect::<String>();
        let _ = writeln!(out, "    Stem {{ name: {:?}, hash: {:#x},", self.name, fnv(&text));
        let _ = writeln!(out, "        source: r#\"{}\"#,", self.text);
        out.push_str("        needs: &[");
        self.needs.iter().for_each(|need| out.push_str(&format!("Need::{need}, ")));
        out.push_str("],\n        consts: &[");
        for c in &self.consts {
            let kind = match c.kind {
                Kind::Dtype => "Dtype",
                Kind::Bool => "Bool",
                Kind::List(_) => "Number",
            };
            let _ = write!(
                out,
                "Const {{ name: {:?}, kind: ConstKind::{kind}, domain: &{:?}, default: {} }}, ",
                c.name,
                c.domain(),
                c.default
            );
        }
        out.push_str("],\n        params: &[");
        for (name, offset, scalar) in params(module) {
            let _ = write!(out, "Param {{ name: {name:?}, offset: {offset}, scalar: Scalar::{scalar} }}, ");
        }
        let _ = write!(out, "], params_size: {},\n        entries: &[", params_size(module));
        for (i, entry) in module.entry_points.iter().enumerate() {
            let used = info.get_entry_point(i);
            let _ = write!(out, "Entry {{ name: {:?}, bindings: &[", entry.name);
            for (handle, var) in module.global_variables.iter() {
                let Some(binding) = &var.binding else { continue };
                if used[handle] == GlobalUse::empty() {
                    continue;
                }
                let written = matches!(var.space, AddressSpace::Storage { access } if access.contains(StorageAccess::STORE));
                let kind = match (var.space == AddressSpace::Uniform, written) {
                    (true, _) => "Uniform",
                    (false, true) => "ReadWrite",
                    (false, false) => "Read",
                };
                let name = var.name.as_deref().unwrap_or_default();
                let _ = write!(out, "Binding {{ name: {name:?}, index: {}, kind: BindingKind::{kind} }}, ", binding.binding);
            }
            out.push_str("] }, ");
        }
        out.push_str("] },\n");
        out
    }
}

/// Fields of the uniform struct, if the stem has one: name, offset, scalar type.
fn params(module: &Module) -> Vec<(String, u32, &'static str)> {
    let Some(members) = uniform(module) else { return Vec::new() };
    let mut out = Vec::new();
    for m in members.0 {
        let name = m.name.clone().unwrap_or_default();
        let inner = &module.types[m.ty].inner;
        let Some(scalar) = inner.scalar() else { continue };
        let len = if let TypeInner::Vector { size, .. } = inner { *size as u32 } else { 1 };
        let kind = match scalar.kind {
            ScalarKind::Sint => "I32",
            ScalarKind::Uint => "U32",
            ScalarKind::Float | ScalarKind::Bool | ScalarKind::AbstractInt | ScalarKind::AbstractFloat => "F32",
        };
        if len == 1 {
            out.push((name, m.offset, kind));
        } else {
            out.extend((0..len).map(|i| (format!("{name}[{i}]"), m.offset + 4 * i, kind)));
        }
    }
    out
}

fn params_size(module: &Module) -> u32 {
    uniform(module).map_or(0, |(_, span)| span)
}

fn uniform(module: &Module) -> Option<(&[naga::StructMember], u32)> {
    let var = module.global_variables.iter().map(|(_, v)| v).find(|v| v.space == AddressSpace::Uniform)?;
    if let TypeInner::Struct { members, span } = &module.types[var.ty].inner { Some((members, *span)) } else { None }
}

/// 64-bit FNV-1a.
fn fnv(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3))
}
