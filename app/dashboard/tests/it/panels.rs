//! Every panel, empty and full, driven by its labels.

use crate::support::{builder, classifier, full_run, full_store};
use egui_kittest::Harness;
use egui_kittest::kittest::Queryable;
use mantissa_core::precision::recipe::RecipeName;
use mantissa_dashboard::form::{Action, Panel};
use mantissa_dashboard::panels::{States, panel_csv, panel_ui};
use mantissa_dashboard::shell::{Dashboard, Settings};
use mantissa_dashboard::store::{Axis, Store};

/// One panel over a store.
fn panel(panel: Panel, store: Store) -> Harness<'static, (Store, States)> {
    let draw = move |ui: &mut egui::Ui, (store, states): &mut (Store, States)| panel_ui(panel, ui, store, states);
    let mut harness = builder().with_size([700.0, 500.0]).build_ui_state(draw, (store, States::default()));
    harness.run();
    harness
}

fn dashboard(store: Store) -> Harness<'static, (Dashboard, Vec<Action>)> {
    let mut dashboard = Dashboard::new(Settings::default());
    dashboard.store = store;
    let draw = |ui: &mut egui::Ui, (d, actions): &mut (Dashboard, Vec<Action>)| actions.extend(d.ui(ui));
    let mut harness = builder().build_ui_state(draw, (dashboard, Vec::new()));
    harness.run();
    harness
}

#[test]
fn empty_panels_teach() {
    let words = [
        (Panel::Loss, "Start a run"),
        (Panel::LossScale, "f16"),
        (Panel::Amax, "fp8-delayed"),
        (Panel::Histogram, "statistics every"),
        (Panel::Throughput, "Start a run"),
        (Panel::Program, "records its step once"),
        (Panel::Race, "Precision race"),
        (Panel::Health, "with what helps"),
        (Panel::Samples, "writes a sample"),
    ];
    assert_eq!(words.len(), Panel::ALL.len());
    for (which, word) in words {
        panel(which, Store::default()).get_by_label_contains(word);
    }
}

#[test]
fn full_panels_show_their_plots_and_numbers() {
    let described = [
        (Panel::Loss, "loss over steps"),
        (Panel::LossScale, "8 overflow markers"),
        (Panel::Amax, "amax of gpt.h0.attn.qkv.x over steps"),
        (Panel::Histogram, "histogram of gpt.h0.attn.qkv.x"),
        (Panel::Throughput, "throughput over steps"),
        (Panel::Race, "losses of 3 recipes"),
        (Panel::Health, "become 0 in fp8"),
        (Panel::Samples, "after step 300"),
        (Panel::Program, "instructions; choose one"),
    ];
    for (which, text) in described {
        panel(which, full_store()).get_by_label_contains(text);
    }
}

#[test]
fn every_panel_gives_its_numbers() {
    let states = States::default();
    for which in Panel::ALL {
        let csv = panel_csv(which, &full_store(), &states);
        let lines: Vec<&str> = csv.lines().collect();
        assert!(lines.len() > 1 && lines[0].contains(','), "{which:?}: {csv}");
        assert_eq!(panel_csv(which, &Store::default(), &states).lines().count(), 1, "{which:?}");
    }
    assert!(panel_csv(Panel::LossScale, &full_store(), &states).contains("overflow, step skipped"));
    let losses = panel_csv(Panel::Loss, &full_store(), &states);
    let held_out = |step: &str| losses.lines().find(|l| l.contains(step)).unwrap().rsplit(',').next().unwrap().to_string();
    assert_eq!((held_out("f16-1,50,"), held_out("f16-1,51,")), ((5.6f32 / 1.5).to_string(), String::new()));
    let histogram = panel_csv(Panel::Histogram, &full_store(), &states);
    let exponents = histogram.lines().skip(1).map(|l| l.split(',').nth(2).unwrap().parse::<i32>().unwrap());
    assert!(exponents.collect::<Vec<_>>().windows(2).all(|w| w[1] == w[0] + 1), "{histogram}");
}

#[test]
fn a_tensor_is_found_and_chosen() {
    let mut h = panel(Panel::Amax, full_store());
    h.get_by_label("Find tensor").focus();
    h.run();
    h.get_by_label("Find tensor").type_text("h1.mlp");
    h.run();
    assert!(h.query_by_label("gpt.h0.attn.qkv.x").is_none());
    h.get_by_label("gpt.h1.mlp.up.dy").click();
    h.run();
    h.get_by_label("amax of gpt.h1.mlp.up.dy over steps");
    assert_eq!(h.state().1.amax.selected, "gpt.h1.mlp.up.dy");
}

#[test]
fn formats_are_asked_about_a_histogram() {
    let mut h = panel(Panel::Histogram, full_store());
    for format in ["f16", "bf16", "e5m2", "e4m3"] {
        h.get_by_label(format);
    }
    assert!(h.query_all_by_label_contains("%").count() > 2);
    h.get_by_label("scale fp8").click();
    h.run();
    assert!(!h.state().1.histogram.scaled);
}

#[test]
fn the_program_is_searched_and_explains_itself() {
    let mut h = panel(Panel::Program, full_store());
    h.get_by_label("Find").focus();
    h.run();
    h.get_by_label("Find").type_text("quantize");
    h.run();
    h.query_all_by_label_contains("quantize(").next().unwrap().click();
    h.run();
    h.get_by_label_contains("why: ");
}

#[test]
fn throughput_has_three_views() {
    let mut h = panel(Panel::Throughput, full_store());
    h.get_by_label("Operations").click();
    h.run();
    h.get_by_label("matmul");
    h.get_by_label_contains("kernels, by host clock");
    h.get_by_label("fastest kernel measured for 3 classes of products: 2 by tiles, 1 by subgroups of 8");
    h.get_by_label("Memory").click();
    h.run();
    h.get_by_label("activations");
    h.get_by_label("3.0 MiB beside the plan");
    h.get_by_label_contains("planned for the step, ");
    let (store, states) = h.state();
    let csv = panel_csv(Panel::Throughput, store, states);
    assert!(csv.starts_with("purpose,planned_bytes,used_bytes\n") && csv.contains("evaluation,0,3145728\n"), "{csv}");
}

#[test]
fn a_place_of_the_map_tells_the_ring_as_it_was() {
    let mut h = panel(Panel::Amax, full_store());
    h.get_by_label("map of gpt.h0.attn.qkv.dy").hover();
    h.run_steps(40);
    for part in ["gpt.h0.attn.qkv.dy (e5m2), step 15", "\nring: 15", " of 1023 amaxes", "\nnewest first: ", ", .."] {
        h.get_by_label_contains(part);
    }
    h.get_by_label_contains("margin 0.0 bits");
}

#[test]
fn a_race_shows_the_distance_from_f32() {
    let mut h = panel(Panel::Race, full_store());
    h.get_by_label("Difference from f32").click();
    h.run();
    h.get_by_label("difference of losses over steps");
}

#[test]
fn a_warning_leads_to_the_panel_that_shows_it() {
    let mut h = dashboard(full_store());
    assert!(h.query_by_label_contains("histogram of").is_none());
    h.get_by_label("Show in Histogram").click();
    h.run();
    h.get_by_label_contains("histogram of gpt.h0.attn.qkv.dy");
}

#[test]
fn pictures_are_shown_with_their_answers() {
    let mut store = Store::default();
    store.add(classifier());
    let h = panel(Panel::Samples, store);
    h.get_by_label("after step 10: the hardest images of a batch, 1 of 2 right");
    h.get_by_label("9 (90%)");
}

#[test]
fn older_samples_can_be_read() {
    let mut h = panel(Panel::Samples, full_store());
    h.get_by_label("Earlier").click();
    h.run();
    h.get_by_label("after step 250");
}

#[test]
fn keys_buttons_and_menus_ask_for_actions() {
    let mut store = Store::default();
    store.add(full_run(RecipeName::F16));
    let mut h = dashboard(store);
    h.key_press(egui::Key::Space);
    h.run();
    let form = h.state().0.bar.form.clone();
    assert_eq!(h.state().1, [Action::Start(form.clone())]);
    h.key_press(egui::Key::R);
    h.run();
    assert_eq!(h.state().1.last(), Some(&Action::Start(form)));
    h.get_by_label("time").click();
    h.run();
    assert_eq!(h.state().0.store.axis, Axis::Time);
    h.query_all_by_label("Export").next().unwrap().click();
    h.run();
    h.query_all_by_label_contains("as CSV").next().unwrap().click();
    h.run();
    assert!(matches!(h.state().1.last(), Some(Action::SaveNumbers(_, csv)) if csv.lines().count() > 100));
}

#[test]
fn settings_survive_a_restart() {
    let mut dashboard = Dashboard::new(Settings::default());
    dashboard.bar.form.steps = 77;
    dashboard.show(Panel::Program);
    let kept = serde_json::to_value(dashboard.settings()).unwrap();
    let back = Dashboard::new(serde_json::from_value(kept.clone()).unwrap());
    assert_eq!(back.bar.form, dashboard.bar.form);
    assert_eq!(serde_json::to_value(back.settings()).unwrap(), kept);
}
