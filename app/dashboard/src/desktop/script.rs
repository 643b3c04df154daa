//! What the window does by itself: start training, save a picture, close. For tests, documentation and demonstrations.

use crate::form::{Action, Form};
use clap::Args;
use mantissa_core::precision::recipe::RecipeName;
use std::path::PathBuf;

/// Flags for a window without a user. With any of them the settings of the last time are left alone.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Without a user")]
pub struct Script {
    /// Start training at once
    #[arg(long)]
    pub start: bool,
    /// Train these recipes in turn, by commas, instead of one
    #[arg(long, value_name = "RECIPES", value_delimiter = ',', requires = "start")]
    pub race: Vec<RecipeName>,
    /// Model preset
    #[arg(long, value_name = "NAME", requires = "start")]
    pub model: Option<String>,
    /// Precision
    #[arg(long, value_name = "NAME", requires = "start")]
    pub recipe: Option<RecipeName>,
    /// Steps
    #[arg(long, value_name = "N", requires = "start")]
    pub steps: Option<u64>,
    /// First loss scale as a power of two (f16)
    #[arg(long, value_name = "K", requires = "start")]
    pub init_scale_log2: Option<i32>,
    /// Save a picture of the window when training has ended, or at once without --start, and close it
    #[arg(long, value_name = "FILE")]
    pub picture: Option<PathBuf>,
}

/// Size of a window whose picture is taken.
const PICTURE_SIZE: [f32; 2] = [1360.0, 860.0];

impl Script {
    /// Size of the window, if the script says so.
    pub(super) fn size(&self) -> Option<[f32; 2]> {
        self.is_given().then_some(PICTURE_SIZE)
    }

    /// Whether there is a script at all.
    pub(super) fn is_given(&self) -> bool {
        self.start || self.picture.is_some()
    }

    /// The settings it asks for.
    pub(super) fn form(&self) -> Form {
        let mut form = Form::default();
        if let Some(model) = &self.model {
            form.model.clone_from(model);
            form.take_preset();
        }
        form.recipe = self.recipe.unwrap_or(form.recipe);
        form.steps = self.steps.unwrap_or(form.steps);
        form.init_scale_log2 = self.init_scale_log2.unwrap_or(form.init_scale_log2);
        if !self.race.is_empty() {
            form.race.clone_from(&self.race);
        }
        form
    }

    /// What it does first.
    pub(super) fn first(&self, form: &Form) -> Option<Action> {
        match (self.start, self.race.is_empty()) {
            (false, _) => None,
            (true, true) => Some(Action::Start(form.clone())),
            (true, false) => Some(Action::Race(form.clone())),
        }
    }
}
