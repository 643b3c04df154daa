//! The whole dashboard around the panels: run bar on top, settings at the side, panels in tabs that can be dragged,
//! split and resized. A host feeds the store, draws this, and does the actions that come back.

use crate::form::{Action, Form, Panel};
use crate::panels::run_bar::{RunBarState, notice_ui, run_bar_ui};
use crate::panels::setup::setup_ui;
use crate::panels::{States, panel_csv, panel_ui};
use crate::store::{Axis, Store};
use egui::{Id, Rect, Ui, WidgetText};
use egui_tiles::{Behavior, Container, Linear, LinearDir, SimplificationOptions, TileId, Tiles, Tree, UiResponse};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What is remembered from one start to the next.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    form: Form,
    states: States,
    axis: Axis,
    tree: Tree<Panel>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { form: Form::default(), states: States::default(), axis: Axis::default(), tree: default_tree() }
    }
}

/// The dashboard.
#[derive(Debug)]
pub struct Dashboard {
    /// What the panels read.
    pub store: Store,
    /// Run bar and settings; the host writes `status`.
    pub bar: RunBarState,
    states: States,
    tree: Tree<Panel>,
    /// Where each visible panel was drawn, for pictures of it.
    pub places: BTreeMap<Panel, Rect>,
}

impl Dashboard {
    /// A dashboard with the settings of the last time.
    pub fn new(settings: Settings) -> Dashboard {
        let Settings { form, states, axis, tree } = settings;
        // A layout of another version may lack panels.
        let complete = Panel::ALL.iter().all(|p| tree.tiles.find_pane(p).is_some());
        Dashboard {
            store: Store { axis, ..Store::default() },
            bar: RunBarState { form, ..RunBarState::default() },
            states,
            tree: if complete { tree } else { default_tree() },
            places: BTreeMap::new(),
        }
    }

    /// What to remember.
    pub fn settings(&self) -> Settings {
        let (form, states, tree) = (self.bar.form.clone(), self.states.clone(), self.tree.clone());
        Settings { form, states, axis: self.store.axis, tree }
    }

    /// Draws everything and returns what the user wants done.
    pub fn ui(&mut self, ui: &mut Ui) -> Vec<Action> {
        self.bar.keys(ui.ctx());
        egui::Panel::top("run bar").show(ui, |ui| {
            ui.add_space(4.0);
            run_bar_ui(ui, &self.store, &mut self.bar);
            ui.add_space(4.0);
        });
        notice_ui(ui, &mut self.bar);
        egui::Panel::left("settings").resizable(true).default_size(238.0).size_range(200.0..=340.0).show(ui, |ui| {
            ui.add_space(6.0);
            setup_ui(ui, &self.store, &mut self.bar);
        });
        self.places.clear();
        let mut wanted = Vec::new();
        egui::CentralPanel::default().frame(egui::Frame::new().fill(ui.visuals().panel_fill).inner_margin(4.0)).show(
            ui,
            |ui| {
                let Dashboard { store, states, places, tree, .. } = self;
                tree.ui(&mut Panes { store, states, places, wanted: &mut wanted }, ui);
            },
        );
        if let Some((panel, tensor)) = self.states.health.go_to.take() {
            self.show(panel);
            if let Some(name) = tensor {
                self.states.amax.selected.clone_from(&name);
                self.states.histogram.selected = name;
            }
        }
        if let Some(axis) = self.bar.axis.take() {
            self.store.axis = axis;
        }
        if let Some(run) = self.bar.selected.take() {
            self.store.selected = run;
        }
        let mut actions = std::mem::take(&mut self.bar.actions);
        actions.append(&mut wanted);
        actions
    }

    /// Brings a panel to the front.
    pub fn show(&mut self, panel: Panel) {
        self.tree.make_active(|_, tile| matches!(tile, egui_tiles::Tile::Pane(p) if *p == panel));
    }
}

/// Loss and loss scale on top, everything else in two groups of tabs below.
fn default_tree() -> Tree<Panel> {
    let mut tiles = Tiles::default();
    let mut tabs = |panels: &[Panel]| {
        let children = panels.iter().map(|p| tiles.insert_pane(*p)).collect();
        tiles.insert_tab_tile(children)
    };
    let loss = tabs(&[Panel::Loss, Panel::Race]);
    let scale = tabs(&[Panel::LossScale, Panel::Throughput]);
    let inside = tabs(&[Panel::Amax, Panel::Histogram, Panel::Program]);
    let words = tabs(&[Panel::Health, Panel::Samples]);
    let mut row = |left, right, share| {
        let linear = Linear::new_binary(LinearDir::Horizontal, [left, right], share);
        tiles.insert_container(Container::Linear(linear))
    };
    let (top, bottom) = (row(loss, scale, 0.5), row(inside, words, 0.64));
    let root = tiles.insert_container(Container::Linear(Linear::new_binary(LinearDir::Vertical, [top, bottom], 0.45)));
    Tree::new(Id::unique("panels"), root, tiles)
}

/// How panels are drawn inside the tiles.
struct Panes<'a> {
    store: &'a Store,
    states: &'a mut States,
    places: &'a mut BTreeMap<Panel, Rect>,
    wanted: &'a mut Vec<Action>,
}

impl Behavior<Panel> for Panes<'_> {
    fn pane_ui(&mut self, ui: &mut Ui, _tile: TileId, panel: &mut Panel) -> UiResponse {
        let frame = egui::Frame::new().fill(ui.visuals().extreme_bg_color).inner_margin(8.0);
        let place = frame.show(ui, |ui| {
            ui.set_min_size(ui.available_size());
            panel_ui(*panel, ui, self.store, self.states);
        });
        self.places.insert(*panel, place.response.rect);
        UiResponse::None
    }

    fn tab_title_for_pane(&mut self, panel: &Panel) -> WidgetText {
        panel.name().into()
    }

    fn top_bar_right_ui(
        &mut self,
        tiles: &Tiles<Panel>,
        ui: &mut Ui,
        _tile: TileId,
        tabs: &egui_tiles::Tabs,
        _scroll: &mut f32,
    ) {
        let Some(panel) = tabs.active.and_then(|active| tiles.get_pane(&active).copied()) else { return };
        ui.add_space(4.0);
        ui.menu_button(egui::RichText::new("Export").small(), |ui| {
            if ui.button(format!("{} as PNG", panel.name())).clicked() {
                self.wanted.push(Action::SavePicture(panel));
                ui.close();
            }
            if ui.button(format!("{} as CSV", panel.name())).clicked() {
                self.wanted.push(Action::SaveNumbers(panel, panel_csv(panel, self.store, self.states)));
                ui.close();
            }
        });
    }

    fn tab_bar_color(&self, visuals: &egui::Visuals) -> egui::Color32 {
        visuals.panel_fill
    }

    fn gap_width(&self, _style: &egui::Style) -> f32 {
        5.0
    }

    fn simplification_options(&self) -> SimplificationOptions {
        SimplificationOptions { all_panes_must_have_tabs: true, ..SimplificationOptions::default() }
    }
}
