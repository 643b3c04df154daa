//! The recorded step as a tree of scopes: every instruction in the colour of the dtype it computes in, with the reason
//! for that dtype.

use super::{csv, empty};
use crate::palette;
use crate::store::Store;
use egui::{CollapsingHeader, RichText, ScrollArea, Ui};
use mantissa_core::plan::explain::{Explanation, Row};
use mantissa_core::show;
use serde::{Deserialize, Serialize};

/// What the panel remembers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ProgramState {
    /// Only instructions with this in their text are shown.
    pub filter: String,
    /// Instruction whose details are shown.
    #[serde(skip)]
    pub selected: Option<usize>,
}

/// Draws the panel.
pub fn program_ui(ui: &mut Ui, store: &Store, state: &mut ProgramState) {
    let Some(run) = store.run() else {
        return empty(
            ui,
            "No program yet",
            "A run records its step once: forward, backward and update as one list of instructions that can be read here.",
        );
    };
    let step = match &run.step {
        Ok(step) => step,
        Err(e) => return empty(ui, "The step cannot be recorded", e),
    };
    ui.horizontal_wrapped(|ui| {
        let label = ui.label("Find");
        let hint = "matmul, e4m3, h0.mlp, softmax";
        ui.add(egui::TextEdit::singleline(&mut state.filter).desired_width(170.0).hint_text(hint)).labelled_by(label.id);
        for d in &step.totals.flops_by_compute {
            let share = 100.0 * d.count as f64 / step.totals.flops.max(1) as f64;
            ui.label(RichText::new(format!("{} {share:.0}%", d.dtype)).color(palette::ink(ui, palette::dtype_named(d.dtype))));
        }
        ui.label(RichText::new("of the FLOPs").weak());
    });
    let needle = state.filter.to_lowercase();
    let shown: Vec<&Row> = step.instructions.iter().filter(|r| matches(r, &needle)).collect();
    let details = state.selected.and_then(|at| step.instructions.get(at));
    let height = ui.available_height() - if details.is_some() { 118.0 } else { 24.0 };
    ScrollArea::vertical().auto_shrink(false).max_height(height.max(60.0)).show(ui, |ui| {
        let tree = Node::of(&shown);
        for child in &tree.children {
            node_ui(ui, child, !needle.is_empty(), &mut state.selected);
        }
        rows_ui(ui, &tree.rows, &mut state.selected);
    });
    ui.separator();
    match details {
        Some(row) => details_ui(ui, row),
        None => {
            let text =
                format!("{} of {} instructions; choose one to see why it has its dtype", shown.len(), step.instructions.len());
            ui.label(RichText::new(text).small().weak());
        }
    }
}

fn matches(row: &Row, needle: &str) -> bool {
    needle.is_empty()
        || [row.op.as_str(), &row.scope, row.compute, &row.why, row.part].iter().any(|t| t.to_lowercase().contains(needle))
}

/// Instructions of a scope, and the scopes below it, in the order of their first instruction.
#[derive(Default)]
struct Node<'a> {
    name: &'a str,
    path: &'a str,
    children: Vec<Node<'a>>,
    rows: Vec<&'a Row>,
}

impl<'a> Node<'a> {
    fn of(rows: &[&'a Row]) -> Node<'a> {
        let mut root = Node::default();
        for row in rows {
            let mut node = &mut root;
            let mut end = 0;
            for part in row.scope.split('.').filter(|p| !p.is_empty()) {
                end += part.len() + usize::from(end > 0);
                let at = node.children.iter().position(|c| c.name == part).unwrap_or_else(|| {
                    let child = Node { name: part, path: &row.scope[..end], ..Node::default() };
                    node.children.push(child);
                    node.children.len() - 1
                });
                node = &mut node.children[at];
            }
            node.rows.push(row);
        }
        root
    }

    fn count(&self) -> usize {
        self.rows.len() + self.children.iter().map(Node::count).sum::<usize>()
    }

    /// The dtype in which most FLOPs below it are done.
    fn dtype(&self) -> &'static str {
        let mut sums: Vec<(&'static str, u64)> = Vec::new();
        self.sum(&mut sums);
        sums.into_iter().max_by_key(|s| s.1).map_or("f32", |s| s.0)
    }

    fn sum(&self, sums: &mut Vec<(&'static str, u64)>) {
        for row in &self.rows {
            match sums.iter_mut().find(|s| s.0 == row.compute) {
                Some(s) => s.1 += row.flops,
                None => sums.push((row.compute, row.flops)),
            }
        }
        self.children.iter().for_each(|c| c.sum(sums));
    }
}

fn node_ui(ui: &mut Ui, node: &Node<'_>, open: bool, selected: &mut Option<usize>) {
    let title =
        RichText::new(format!("{} ({})", node.name, node.count())).color(palette::ink(ui, palette::dtype_named(node.dtype())));
    // A search opens what it finds; afterwards the tree is as it was.
    CollapsingHeader::new(title).id_salt((node.path, open)).default_open(open).show(ui, |ui| {
        for child in &node.children {
            node_ui(ui, child, open, selected);
        }
        rows_ui(ui, &node.rows, selected);
    });
}

fn rows_ui(ui: &mut Ui, rows: &[&Row], selected: &mut Option<usize>) {
    for row in rows {
        let text = format!("{:<5} {} -> {}", row.compute, row.op, few(&row.outputs));
        let text = RichText::new(text).monospace().size(11.0);
        let chosen = *selected == Some(row.index);
        let text = if chosen { text } else { text.color(palette::ink(ui, palette::dtype_named(row.compute))) };
        if ui.add(egui::Button::selectable(chosen, text).truncate()).on_hover_text(&row.why).clicked() {
            *selected = if chosen { None } else { Some(row.index) };
        }
    }
}

/// Types in a line: an optimizer has hundreds.
fn few(types: &[String]) -> String {
    const FEW: usize = 6;
    match types.len() {
        0..=FEW => types.join(", "),
        n => format!("{} and {} more", types[..FEW].join(", "), n - FEW),
    }
}

fn details_ui(ui: &mut Ui, row: &Row) {
    ui.horizontal_wrapped(|ui| {
        ui.label(RichText::new(format!("#{} {}", row.index, row.op)).strong());
        ui.label(RichText::new(row.compute).color(palette::ink(ui, palette::dtype_named(row.compute))));
        ui.label(RichText::new(format!("{} {}", row.part, row.scope)).weak());
    });
    ui.label(format!("why: {}", row.why));
    ui.label(RichText::new(format!("{} -> {}", few(&row.inputs), few(&row.outputs))).small());
    let bytes = (row.read_bytes + row.written_bytes) as usize;
    let price = format!("{}FLOP, {} moved, class {}", show::spaced(row.flops as f64), show::mebibytes(bytes), row.class);
    ui.label(RichText::new(price).small().weak());
}

/// The instructions as CSV.
pub fn program_csv(store: &Store) -> String {
    let step: Option<&Explanation> = store.run().and_then(|r| r.step.as_ref().ok());
    let rows = step.into_iter().flat_map(|s| &s.instructions).map(|r| {
        vec![
            r.index.to_string().into(),
            r.part.into(),
            r.scope.as_str().into(),
            r.op.as_str().into(),
            r.compute.into(),
            r.why.as_str().into(),
            r.flops.to_string().into(),
            (r.read_bytes + r.written_bytes).to_string().into(),
        ]
    });
    csv(["index", "part", "scope", "op", "compute", "why", "flops", "bytes"], rows)
}
