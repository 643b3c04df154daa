//! Recipes: the named choice a user makes, with options. Loadable from TOML or JSON; unknown keys are refused.
//!
//! `f32`; `tf32`; `bf16` and `f16` autocast (f16 with a `GradScaler`); `fp8-delayed`, `fp8-current` and `mxfp8`, whose
//! linear layers multiply in fp8 and whose other low operations run in bf16. Defaults follow PyTorch AMP and
//! Transformer Engine.

use super::overrides::Overrides;
use super::scaler::ScalerConfig;
use super::settings::{Fp8Config, Fp8Format, Fp8Scaling, Override, Region};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::near;
use crate::op::quantize::{AmaxAlgo, MxRule, NonFiniteAmax};
use serde::{Deserialize, Serialize};

/// Name of a recipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RecipeName {
    /// Everything in f32.
    #[serde(rename = "f32")]
    F32,
    /// Matmuls with inputs rounded to tf32.
    #[serde(rename = "tf32")]
    Tf32,
    /// bf16 autocast.
    #[serde(rename = "bf16")]
    Bf16,
    /// f16 autocast with loss scaling.
    #[serde(rename = "f16")]
    F16,
    /// fp8 linear layers, scales from amax histories.
    #[serde(rename = "fp8-delayed")]
    Fp8Delayed,
    /// fp8 linear layers, scales from the present amax.
    #[serde(rename = "fp8-current")]
    Fp8Current,
    /// fp8 linear layers, one E8M0 scale per 32 elements.
    #[serde(rename = "mxfp8")]
    Mxfp8,
}

impl RecipeName {
    /// All names.
    pub const ALL: [RecipeName; 7] = [
        RecipeName::F32,
        RecipeName::Tf32,
        RecipeName::Bf16,
        RecipeName::F16,
        RecipeName::Fp8Delayed,
        RecipeName::Fp8Current,
        RecipeName::Mxfp8,
    ];

    /// The token a user types.
    pub const fn name(self) -> &'static str {
        match self {
            RecipeName::F32 => "f32",
            RecipeName::Tf32 => "tf32",
            RecipeName::Bf16 => "bf16",
            RecipeName::F16 => "f16",
            RecipeName::Fp8Delayed => "fp8-delayed",
            RecipeName::Fp8Current => "fp8-current",
            RecipeName::Mxfp8 => "mxfp8",
        }
    }
}

impl std::fmt::Display for RecipeName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

impl std::str::FromStr for RecipeName {
    type Err = Error;
    fn from_str(s: &str) -> Result<RecipeName> {
        let known = RecipeName::ALL.map(RecipeName::name);
        RecipeName::ALL.into_iter().find(|r| r.name() == s).ok_or_else(|| near::unknown("recipe", &known, s))
    }
}

/// A precision recipe with all its options.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Which recipe.
    pub name: RecipeName,
    /// Dtype of the low class; absent for f32.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low: Option<DType>,
    /// Loss scaling; absent where gradients do not need it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaler: Option<ScalerConfig>,
    /// fp8 linear layers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fp8: Option<Fp8Config>,
    /// Other precision for parts of the model; the last that matches a scope wins.
    #[serde(default, rename = "override", skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<Override>,
}

impl From<RecipeName> for Recipe {
    fn from(name: RecipeName) -> Recipe {
        let plain = |low| Recipe { name, low, scaler: None, fp8: None, overrides: Vec::new() };
        let fp8 = |format, scaling| Recipe { fp8: Some(Fp8Config { format, scaling }), ..plain(Some(DType::Bf16)) };
        match name {
            RecipeName::F32 => plain(None),
            RecipeName::Tf32 => plain(Some(DType::Tf32)),
            RecipeName::Bf16 => plain(Some(DType::Bf16)),
            RecipeName::F16 => Recipe { scaler: Some(ScalerConfig::default()), ..plain(Some(DType::F16)) },
            RecipeName::Fp8Delayed => fp8(
                Fp8Format::Hybrid,
                Fp8Scaling::Delayed {
                    amax_history_len: 1024,
                    amax_algo: AmaxAlgo::Max,
                    margin: 0,
                    nonfinite_amax: NonFiniteAmax::Ignore,
                    warm_up: false,
                },
            ),
            RecipeName::Fp8Current => fp8(Fp8Format::Hybrid, Fp8Scaling::Current { amax_epsilon: 0.0, power_of_two: false }),
            RecipeName::Mxfp8 => fp8(Fp8Format::E4m3, Fp8Scaling::Mx { scale_rule: MxRule::Ceil }),
        }
    }
}

impl Recipe {
    /// The recipe `name` with default options.
    pub fn new(name: RecipeName) -> Recipe {
        Recipe::from(name)
    }

    /// With this loss scaling.
    pub fn scaler(mut self, scaler: ScalerConfig) -> Recipe {
        self.scaler = Some(scaler);
        self
    }

    /// With this initial loss scale; turns loss scaling on if it was off, which only f16 and the fp8 recipes allow.
    pub fn init_scale(mut self, init_scale: f64) -> Recipe {
        self.scaler = Some(ScalerConfig { init_scale, ..self.scaler.unwrap_or_default() });
        self
    }

    /// With these fp8 formats. No effect on recipes without fp8.
    pub fn fp8_format(mut self, format: Fp8Format) -> Recipe {
        if let Some(fp8) = &mut self.fp8 {
            fp8.format = format;
        }
        self
    }

    /// With this fp8 scaling. No effect on recipes without fp8.
    pub fn fp8_scaling(mut self, scaling: Fp8Scaling) -> Recipe {
        if let Some(fp8) = &mut self.fp8 {
            fp8.scaling = scaling;
        }
        self
    }

    /// With an amax history of `len` micro-steps. Only `fp8-delayed` has one.
    pub fn amax_history(mut self, len: usize) -> Recipe {
        if let Some(Fp8Config { scaling: Fp8Scaling::Delayed { amax_history_len, .. }, .. }) = &mut self.fp8 {
            *amax_history_len = len;
        }
        self
    }

    /// The autocast region of the model's forward pass.
    pub fn region(&self) -> Region {
        Region { low: self.low, fp8: self.fp8 }
    }

    /// Its overrides, ready for recording.
    ///
    /// # Errors
    /// As [`Overrides::new`].
    pub fn compiled_overrides(&self) -> Result<Overrides> {
        Overrides::new(&self.overrides, self.region())
    }

    /// The dtype most of the arithmetic runs in: what a peak rate is quoted for.
    pub fn compute_dtype(&self) -> DType {
        match (&self.fp8, self.low) {
            (Some(fp8), _) => fp8.format.forward(),
            (None, Some(low)) => low,
            (None, None) => DType::F32,
        }
    }

    /// Its name with what its options change of the precision that the name stands for: `fp8-delayed-f16-scaled`,
    /// `bf16-override`.
    pub fn label(&self) -> String {
        let named = Recipe::new(self.name);
        let mut parts = vec![self.name.name()];
        if self.low != named.low {
            parts.push(low_name(self.low));
        }
        match (self.scaler.is_some(), named.scaler.is_some()) {
            (true, false) => parts.push("scaled"),
            (false, true) => parts.push("unscaled"),
            (true, true) | (false, false) => {}
        }
        if !self.overrides.is_empty() {
            parts.push("override");
        }
        parts.join("-")
    }

    /// The recipe of the same low dtype and overrides without fp8 layers and loss scale, for steps that train nothing.
    pub fn for_inference(&self) -> Recipe {
        let plain = [RecipeName::F32, RecipeName::Tf32, RecipeName::Bf16, RecipeName::F16];
        let name = plain.into_iter().find(|&name| Recipe::new(name).low == self.low).unwrap_or(self.name);
        Recipe { name, low: self.low, scaler: None, fp8: None, overrides: self.overrides.clone() }
    }

    /// Refuses parts that the name does not stand for: a run is found, compared and named by it.
    fn check_name(&self) -> Result<()> {
        let refuse = |part: &str, want: String, got: &str| Err(Error::config(format!("recipe.{part}"), want, got));
        let fp8 = Recipe::new(self.name).fp8.map(|f| f.scaling.name());
        let lows: &[Option<DType>] = match self.name {
            RecipeName::F32 => &[None],
            RecipeName::Tf32 => &[Some(DType::Tf32)],
            RecipeName::Bf16 => &[Some(DType::Bf16)],
            RecipeName::F16 => &[Some(DType::F16)],
            RecipeName::Fp8Delayed | RecipeName::Fp8Current | RecipeName::Mxfp8 => &[Some(DType::Bf16), Some(DType::F16), None],
        };
        if !lows.contains(&self.low) {
            let names = lows.iter().map(|&low| low_name(low)).collect::<Vec<_>>().join(" or ");
            return refuse("low", format!("{names}, since the recipe is {}", self.name), low_name(self.low));
        }
        let found = self.fp8.map(|f| f.scaling.name());
        if found != fp8 {
            let want = format!("{}, since the recipe is {}", fp8.unwrap_or("no fp8"), self.name);
            return refuse("fp8", want, found.unwrap_or("no fp8"));
        }
        if self.scaler.is_some() && self.name != RecipeName::F16 && fp8.is_none() {
            return refuse("scaler", format!("no loss scale, since the recipe is {} (f16 has one)", self.name), "a loss scale");
        }
        Ok(())
    }

    /// Checks every option, and that the recipe is what its name says. Fails at the first that is out of range or
    /// contradicts the name, naming it as `recipe.<name>`.
    pub fn validate(&self) -> Result<()> {
        self.check_name()?;
        if let Some(scaler) = &self.scaler {
            scaler.validate().map_err(|e| e.within("recipe"))?;
        }
        self.compiled_overrides()?;
        match self.fp8.map(|f| f.scaling) {
            Some(Fp8Scaling::Delayed { amax_history_len, margin, .. }) => {
                if !(1..=65_536).contains(&amax_history_len) {
                    return Err(Error::config("recipe.fp8.amax_history_len", "1 to 65536", amax_history_len.to_string()));
                }
                if !(-32..=32).contains(&margin) {
                    return Err(Error::config("recipe.fp8.margin", "-32 to 32", margin.to_string()));
                }
            }
            Some(Fp8Scaling::Current { amax_epsilon, .. }) => {
                if !(amax_epsilon >= 0.0 && amax_epsilon.is_finite()) {
                    return Err(Error::config(
                        "recipe.fp8.amax_epsilon",
                        "a finite value of at least 0",
                        amax_epsilon.to_string(),
                    ));
                }
            }
            Some(Fp8Scaling::Mx { .. }) | None => {}
        }
        Ok(())
    }
}

fn low_name(low: Option<DType>) -> &'static str {
    low.map_or("f32", DType::name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recipe_can_infer_in_its_low_dtype() {
        for name in RecipeName::ALL {
            let recipe = Recipe::new(name);
            let inference = recipe.for_inference();
            inference.validate().unwrap();
            assert_eq!((inference.low, inference.fp8, inference.scaler), (recipe.low, None, None), "{name}");
        }
        assert_eq!(Recipe::new(RecipeName::Fp8Delayed).for_inference().name, RecipeName::Bf16);
    }

    #[test]
    fn every_recipe_survives_toml() {
        for name in RecipeName::ALL {
            let recipe = Recipe::new(name);
            recipe.validate().expect("defaults are valid");
            let text = toml::to_string(&recipe).expect("serializes");
            assert_eq!(toml::from_str::<Recipe>(&text).expect(&text), recipe);
        }
    }

    #[test]
    fn bad_options_name_themselves() {
        let bad = Recipe::new(RecipeName::Fp8Delayed).amax_history(0);
        assert!(bad.validate().expect_err("0 rows").to_string().starts_with("recipe.fp8.amax_history_len"));
        let bad = Recipe::new(RecipeName::F16).init_scale(0.0);
        assert!(bad.validate().expect_err("scale 0").to_string().contains("init_scale"));
        assert!(toml::from_str::<Recipe>("name = \"bf16\"\nlow = \"bf16\"\nmargins = 2").is_err());
        let unknown = "fp16".parse::<RecipeName>().expect_err("unknown").to_string();
        assert!(unknown.contains("fp8-delayed") && unknown.contains("did you mean f16?"), "{unknown}");
    }
    #[test]
    fn a_name_stands_for_its_parts() {
        let refused = |recipe: Recipe| recipe.validate().expect_err("a contradiction").to_string();
        let new = Recipe::new;
        let low = |name, low| Recipe { low, ..new(name) };
        assert_eq!(
            refused(low(RecipeName::Bf16, Some(DType::F16))),
            "recipe.low: expected bf16, since the recipe is bf16, got f16"
        );
        assert_eq!(refused(low(RecipeName::F16, None)), "recipe.low: expected f16, since the recipe is f16, got f32");
        assert_eq!(
            refused(low(RecipeName::F32, Some(DType::Tf32))),
            "recipe.low: expected f32, since the recipe is f32, got tf32"
        );
        assert!(refused(low(RecipeName::Mxfp8, Some(DType::Tf32))).contains("bf16 or f16 or f32"));
        let fp8 = new(RecipeName::Fp8Delayed).fp8;
        assert!(refused(Recipe { fp8, ..new(RecipeName::Bf16) }).starts_with("recipe.fp8: expected no fp8"));
        assert!(refused(Recipe { fp8: None, ..new(RecipeName::Mxfp8) }).contains("expected mx blocks"));
        assert!(refused(Recipe { fp8, ..new(RecipeName::Fp8Current) }).contains("expected current scaling"));
        for name in [RecipeName::F32, RecipeName::Tf32, RecipeName::Bf16] {
            assert!(refused(new(name).init_scale(8.0)).starts_with("recipe.scaler: expected no loss scale"), "{name}");
        }
    }

    #[test]
    fn a_label_tells_what_options_change() {
        let valid = |recipe: Recipe| {
            recipe.validate().expect("valid");
            recipe.label()
        };
        for name in RecipeName::ALL {
            assert_eq!(valid(Recipe::new(name)), name.name());
        }
        let over = "gpt.head=f32".parse().expect("an override");
        assert_eq!(valid(Recipe { overrides: vec![over], ..Recipe::new(RecipeName::Bf16) }), "bf16-override");
        let fp8 = Recipe { low: Some(DType::F16), ..Recipe::new(RecipeName::Fp8Delayed) }.init_scale(8.0);
        assert_eq!(valid(fp8), "fp8-delayed-f16-scaled");
        assert_eq!(valid(Recipe { scaler: None, ..Recipe::new(RecipeName::F16) }), "f16-unscaled");
    }
}
