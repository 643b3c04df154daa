//! The table of scalars is whole, and `docs/events.md` says what it says.

use super::*;
use crate::telemetry::event::StepEvent;
use crate::telemetry::{Fp8Report, Fp8Stats};
use std::fmt::Write as _;

#[test]
fn every_scalar_and_every_slot_has_one_row() {
    for (i, row) in STEP.iter().enumerate() {
        assert_eq!(row.scalar as usize, i, "{}", row.row.name);
        assert!(row.group.is_none_or(|g| GROUPS.contains(&g)), "{}", row.row.name);
    }
    for slot in 0..Slot::Count as usize {
        let rows = STEP.iter().filter(|row| matches!(row.source, Source::Slot(s) if s as usize == slot));
        assert_eq!(rows.count(), 1, "slot {slot}");
    }
    let mut names: Vec<&str> = [false, true].iter().flat_map(|&images| STEP.iter().map(move |r| r.name(images))).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), STEP.len() + 1, "a name stands for one scalar; one scalar has two");
}

#[test]
fn an_event_has_every_scalar_that_its_report_has() {
    let fp8 = Fp8Report { underflow: (0.5, "a".into()), saturated: (0.25, "b".into()), nonfinite: 1.0 };
    let whole = StepReport {
        loss_scale: Some(65536.0),
        growth_tracker: Some(3),
        fp8: Some(fp8),
        ..crate::diagnose::testing::report(4)
    };
    let timing = Timing { ms: 2.0, items_per_s: 8.0, mfu: 0.5 };
    for (report, absent) in [(whole, vec![]), (crate::diagnose::testing::report(4), vec!["fp8", "without a loss scaler"])] {
        let event = StepEvent::new(&report, timing, false);
        assert_eq!(event.report(), report, "an event gives its report back");
        for row in &STEP {
            let value = (row.row.of)(&report, timing);
            assert_eq!(event.get(row.scalar), value, "{}", row.row.name);
            let text = match row.row.absent {
                Absent::Never => "",
                Absent::Null(when) | Absent::LeftOut(when) => when,
            };
            let missing = absent.iter().any(|a| text.contains(a));
            assert_eq!(value.is_none(), missing, "{}: absent {text:?}", row.row.name);
        }
    }
}

#[test]
fn the_line_of_progress_follows_from_the_rows() {
    let line = |event: &StepEvent| event.progress().collect::<Vec<_>>().join(" | ");
    let timing = Timing { ms: 48.25, items_per_s: 85_000.0, mfu: 0.314 };
    let plain = crate::diagnose::testing::report(4);
    let expected = "loss 2.0000 | lr 1.00e-03 | grad_norm 1.000 | 48.2 ms | 85.0k tok/s | mfu 31.4%";
    assert_eq!(line(&StepEvent::new(&plain, timing, false)), expected);
    let fp8 = Fp8Report { underflow: (0.5, "a".into()), saturated: (0.0, "b".into()), nonfinite: 1.0 };
    let full = StepReport { loss_scale: Some(65536.0), loss: f32::NAN, fp8: Some(fp8), ..plain.clone() };
    let expected = "loss NaN | lr 1.00e-03 | grad_norm 1.000 | loss_scale 65536 | skipped 0 | underflow 50.0% | saturated 0.0% \
                    | 48.2 ms | 85.0k img/s | mfu 31.4%";
    assert_eq!(line(&StepEvent::new(&full, timing, true)), expected);
    let skipped = StepReport { skipped_total: 2, ..plain };
    assert!(line(&StepEvent::new(&skipped, timing, false)).contains("| skipped 2 |"));
}

fn kind(number: Number, null: bool) -> String {
    let kind = match number {
        Number::F32 | Number::F64 | Number::Decimals(_) => "number",
        Number::Count => "integer",
        Number::Bool => "bool",
    };
    if null { format!("{kind} or null") } else { kind.to_string() }
}

fn may_be_null(absent: Absent) -> bool {
    matches!(absent, Absent::Null(_))
}

fn line(out: &mut String, key: &str, kind: &str, unit: &str, absent: Absent, doc: &str) {
    let when = match absent {
        Absent::Never => String::new(),
        Absent::Null(when) => format!("null {when}"),
        Absent::LeftOut(when) => format!("left out {when}"),
    };
    writeln!(out, "| {key} | {kind} | {unit} | {doc} | {when} |").unwrap();
}

fn head(out: &mut String) {
    out.push_str("| key | type | unit | meaning | absent |\n| --- | --- | --- | --- | --- |\n");
}

/// The tables of `docs/events.md`.
fn tables() -> [(&'static str, String); 3] {
    let mut step = String::new();
    head(&mut step);
    line(&mut step, "`step`", "integer", "", Absent::Never, "from 1");
    for row in &STEP {
        let at = |name: &str| row.group.map_or(format!("`{name}`"), |group| format!("`{group}.{name}`"));
        let mut keys = at(row.row.name);
        if let Some(name) = row.image_name {
            keys += &format!(" or {}", at(name));
        }
        let mut doc = row.row.doc.to_string();
        if row.flagged {
            doc += &format!("; null where it is not finite, with `{}_nonfinite`", row.row.name);
        }
        if row.tensor.is_some() {
            doc += &format!("; its tensor is {}", at(&format!("{}_tensor", row.row.name)));
        }
        let null = row.flagged || may_be_null(row.row.absent);
        line(&mut step, &keys, &kind(row.row.number, null), row.row.unit, row.row.absent, &doc);
    }
    let mut eval = String::new();
    head(&mut eval);
    line(&mut eval, "`step`", "integer", "", Absent::Never, "steps taken before it");
    for row in &EVAL {
        line(&mut eval, &format!("`{}`", row.name), &kind(row.number, may_be_null(row.absent)), row.unit, row.absent, row.doc);
    }
    let mut tensor = String::new();
    head(&mut tensor);
    for row in &TENSOR {
        line(
            &mut tensor,
            &format!("`{}`", row.name),
            &kind(row.number, may_be_null(row.absent)),
            row.unit,
            row.absent,
            row.doc,
        );
    }
    [("step", step), ("evaluation", eval), ("tensor", tensor)]
}

/// The tables stand in the file as they follow from the rows. `UPDATE_DOCS=1` writes them there.
#[test]
fn the_document_has_the_tables_of_the_schema() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/events.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut expected = text.clone();
    for (name, table) in tables() {
        let (start, end) = (format!("<!-- from the schema: {name} -->\n"), "<!-- end -->\n");
        let from = expected.find(&start).unwrap_or_else(|| panic!("expected the mark {start:?}")) + start.len();
        let to = from + expected[from..].find(end).unwrap_or_else(|| panic!("expected the mark {end:?} after {start:?}"));
        expected.replace_range(from..to, &table);
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &expected).unwrap();
    } else {
        assert_eq!(text, expected, "docs/events.md is not what telemetry/schema.rs says; UPDATE_DOCS=1 writes it");
    }
}

#[test]
fn an_infinite_amax_is_a_number_of_tables() {
    let amax = TENSOR.iter().find(|row| row.name == "amax").unwrap();
    let stats = Fp8Stats { amax: f32::INFINITY, scale: 1.0, underflow: 0.0, saturated: 0.0, nonfinite: 1.0 };
    let report = TensorReport::of_fp8("x", crate::dtype::DType::E4m3, &stats);
    assert_eq!((amax.of)(&report), Some(f64::INFINITY));
}
