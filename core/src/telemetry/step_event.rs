//! The event of a step. Its keys, their order and how each is written follow from the rows of [`schema::STEP`].

use super::schema::{GROUPS, Number, Progress, STEP, StepRow, StepScalar};
use super::{Fp8Report, StepReport, Timing, schema};
use crate::show;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const FLAG: &str = "_nonfinite";
const TENSOR: &str = "_tensor";

/// A step: its scalars by [`StepScalar`].
///
/// JSON has no NaN and no infinity. Such a number is `null`, with a flag beside it where its row says so. From there it
/// comes back as NaN, without the flag as absent.
#[derive(Clone, Debug, PartialEq)]
pub struct StepEvent {
    /// Step number, counted from 1.
    pub step: u64,
    /// The run counts images; else tokens.
    pub images: bool,
    values: [Option<f64>; StepScalar::COUNT],
    /// Tensors that have a scalar, by name.
    tensors: Vec<(StepScalar, String)>,
}

impl StepEvent {
    /// The event of a step. `images` says what the throughput counts.
    pub fn new(report: &StepReport, timing: Timing, images: bool) -> StepEvent {
        let value = |row: &StepRow| {
            (row.row.of)(report, timing).map(|x| match row.row.number {
                Number::Decimals(digits) => rounded(x, digits),
                Number::F32 | Number::F64 | Number::Count | Number::Bool => x,
            })
        };
        let tensor = |row: &StepRow| Some((row.scalar, row.tensor?(report)?.to_string()));
        StepEvent {
            step: report.step,
            images,
            values: std::array::from_fn(|i| value(&STEP[i])),
            tensors: STEP.iter().filter_map(tensor).collect(),
        }
    }

    /// A scalar; `None` where it is absent.
    pub fn get(&self, scalar: StepScalar) -> Option<f64> {
        self.values[scalar as usize]
    }

    /// A scalar as f32; NaN where it is absent.
    pub fn value(&self, scalar: StepScalar) -> f32 {
        self.get(scalar).map_or(f32::NAN, |x| x as f32)
    }

    /// Every scalar in the order of [`schema::STEP`], as [`StepEvent::value`].
    pub fn values(&self) -> [f32; StepScalar::COUNT] {
        std::array::from_fn(|i| self.value(STEP[i].scalar))
    }

    /// Steps skipped up to this one.
    pub fn skipped_total(&self) -> u64 {
        self.get(StepScalar::Skipped).unwrap_or(0.0) as u64
    }

    /// Whether the step was skipped: it raised the number of skipped steps, which was `before`. Where that is not
    /// known, a step that was not finite counts as skipped if any was.
    pub fn was_skipped(&self, before: Option<u64>) -> bool {
        match before {
            Some(before) => self.skipped_total() > before,
            None => self.skipped_total() > 0 && self.get(StepScalar::FoundInf).is_some_and(|x| x != 0.0),
        }
    }

    /// The report that it was made of. Numbers that JSON cannot write come back as NaN. Whether the step was skipped
    /// shows in the number of skipped steps only.
    pub fn report(&self) -> StepReport {
        let fp8 = |scalar| (self.value(scalar), self.tensor(scalar).to_string());
        StepReport {
            step: self.step,
            loss: self.value(StepScalar::Loss),
            lr: self.get(StepScalar::Lr).unwrap_or(f64::NAN),
            grad_norm: self.value(StepScalar::GradNorm),
            loss_scale: self.get(StepScalar::LossScale).map(|x| x as f32),
            found_inf: self.get(StepScalar::FoundInf).is_some_and(|x| x != 0.0),
            skipped: false,
            skipped_total: self.skipped_total(),
            growth_tracker: self.get(StepScalar::GrowthTracker).map(|n| n as i32),
            fp8: self.has(schema::FP8).then(|| Fp8Report {
                underflow: fp8(StepScalar::Underflow),
                saturated: fp8(StepScalar::Saturated),
                nonfinite: self.value(StepScalar::Nonfinite),
            }),
        }
    }

    /// The scalars that a line of progress shows, in words: `loss 2.4312`.
    pub fn progress(&self) -> impl Iterator<Item = String> + '_ {
        STEP.iter().filter_map(|row| self.shown(row))
    }

    fn shown(&self, row: &StepRow) -> Option<String> {
        let (name, x) = (row.name(self.images), self.get(row.scalar)?);
        Some(match row.progress {
            Progress::Hidden => return None,
            Progress::Skips if self.get(StepScalar::LossScale).is_none() && x == 0.0 => return None,
            Progress::Skips => format!("{name} {x}"),
            Progress::Digits(digits) => format!("{name} {}", show::measured(x as f32, digits)),
            Progress::Scientific => format!("{name} {}", show::scientific(x)),
            Progress::LossScale => format!("{name} {}", show::loss_scale(x as f32)),
            // Of a name with a unit in it, the unit is enough.
            Progress::Ms => format!("{x:.1} ms"),
            Progress::Rate => format!("{} {}/s", show::prefixed(x), name.trim_end_matches("_per_s")),
            Progress::Percent => format!("{name} {:.1}%", 100.0 * x),
        })
    }

    /// The tensor that has a scalar.
    fn tensor(&self, scalar: StepScalar) -> &str {
        self.tensors.iter().find(|(s, _)| *s == scalar).map_or("", |(_, name)| name)
    }

    /// Whether it has anything of a group.
    fn has(&self, group: &str) -> bool {
        STEP.iter().any(|row| row.group == Some(group) && self.get(row.scalar).is_some())
    }

    /// Writes the rows of `group`.
    fn write<M: SerializeMap>(&self, group: Option<&str>, map: &mut M) -> Result<(), M::Error> {
        for row in STEP.iter().filter(|row| row.group == group) {
            let (name, value) = (row.name(self.images), self.get(row.scalar));
            // Of a group that is there, every key is.
            if value.is_none() && group.is_none() && matches!(row.row.absent, schema::Absent::LeftOut(_)) {
                continue;
            }
            map.serialize_entry(name, &Written(row.row.number, value))?;
            if row.flagged && value.is_some_and(|x| !x.is_finite()) {
                map.serialize_entry(&format!("{name}{FLAG}"), &true)?;
            }
            if row.tensor.is_some() {
                map.serialize_entry(&format!("{name}{TENSOR}"), self.tensor(row.scalar))?;
            }
        }
        Ok(())
    }
}

fn rounded(x: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (x * scale).round() / scale
}

/// A number as its row says.
struct Written(Number, Option<f64>);

impl Serialize for Written {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match (self.0, self.1.filter(|x| x.is_finite())) {
            (_, None) => s.serialize_none(),
            (Number::F32, Some(x)) => s.serialize_f32(x as f32),
            (Number::F64 | Number::Decimals(_), Some(x)) => s.serialize_f64(x),
            (Number::Count, Some(x)) => s.serialize_u64(x as u64),
            (Number::Bool, Some(x)) => s.serialize_bool(x != 0.0),
        }
    }
}

/// A group of a step.
struct Group<'a>(&'a StepEvent, &'static str);

impl Serialize for Group<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut map = s.serialize_map(None)?;
        self.0.write(Some(self.1), &mut map)?;
        map.end()
    }
}

impl Serialize for StepEvent {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut map = s.serialize_map(None)?;
        map.serialize_entry("step", &self.step)?;
        self.write(None, &mut map)?;
        for group in GROUPS.into_iter().filter(|group| self.has(group)) {
            map.serialize_entry(group, &Group(self, group))?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for StepEvent {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<StepEvent, D::Error> {
        let mut event = StepEvent { step: 0, images: false, values: [None; StepScalar::COUNT], tensors: Vec::new() };
        let mut step = None;
        d.deserialize_map(Keys { event: &mut event, step: &mut step, group: None })?;
        event.step = step.ok_or_else(|| D::Error::missing_field("step"))?;
        let missing = STEP.iter().find(|row| !row.may_be_null() && event.get(row.scalar).is_none());
        match missing {
            Some(row) => Err(D::Error::missing_field(row.row.name)),
            None => Ok(event),
        }
    }
}

/// Reads the keys of an event, or of a group in it.
struct Keys<'a> {
    event: &'a mut StepEvent,
    step: &'a mut Option<u64>,
    group: Option<&'static str>,
}

impl<'de> DeserializeSeed<'de> for Keys<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Keys<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object of scalars")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Keys { event, step, group } = self;
        while let Some(key) = map.next_key::<Key<'_>>()? {
            let row = |suffix: &str| {
                let name = key.0.strip_suffix(suffix)?;
                STEP.iter().find(|row| row.group == group && (row.row.name == name || row.image_name == Some(name)))
            };
            if group.is_none() && key.0 == "step" {
                *step = Some(map.next_value()?);
            } else if let Some(inner) = GROUPS.into_iter().find(|g| group.is_none() && key.0 == *g) {
                map.next_value_seed(Keys { event: &mut *event, step: &mut *step, group: Some(inner) })?;
            } else if let Some(row) = row("") {
                let value = match row.row.number {
                    Number::F32 => map.next_value::<Option<f32>>()?.map(f64::from),
                    Number::F64 | Number::Decimals(_) => map.next_value()?,
                    Number::Count => map.next_value::<Option<u64>>()?.map(|n| n as f64),
                    Number::Bool => map.next_value::<Option<bool>>()?.map(|b| f64::from(u8::from(b))),
                };
                // Older logs of classifiers have `null` for the other rate.
                if value.is_some() {
                    event.values[row.scalar as usize] = value;
                    event.images |= row.image_name == Some(key.0.as_ref());
                }
            } else if let Some(row) = row(FLAG).filter(|row| row.flagged) {
                if map.next_value()? {
                    event.values[row.scalar as usize] = Some(f64::NAN);
                }
            } else if let Some(row) = row(TENSOR).filter(|row| row.tensor.is_some()) {
                event.tensors.push((row.scalar, map.next_value()?));
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        event.tensors.sort_by_key(|(scalar, _)| *scalar);
        Ok(())
    }
}

/// A key, kept without a copy where it can be.
#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] std::borrow::Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::event::{Event, Timing};

    const TIMING: Timing = Timing { ms: 12.34567, items_per_s: 1000.04, mfu: 0.5 };

    fn report() -> StepReport {
        StepReport {
            loss: f32::NAN,
            grad_norm: f32::INFINITY,
            loss_scale: Some(65536.0),
            found_inf: true,
            skipped: true,
            skipped_total: 2,
            growth_tracker: Some(0),
            ..crate::diagnose::testing::report(3)
        }
    }

    #[test]
    fn numbers_that_are_not_finite_become_null_with_a_flag() {
        let event = StepEvent::new(&report(), TIMING, false);
        let line = Event::Step(event).to_line().unwrap();
        let expected = r#"{"kind":"step","step":3,"loss":null,"loss_nonfinite":true,"lr":0.001,"#.to_string()
            + r#""grad_norm":null,"grad_norm_nonfinite":true,"loss_scale":65536.0,"skipped":2,"found_inf":true,"#
            + r#""growth_tracker":0,"ms":12.346,"tok_per_s":1000.0,"mfu":0.5}"#;
        assert_eq!(line, expected);
        let Some(Event::Step(back)) = Event::from_line(&line).unwrap() else { panic!("{line}") };
        assert!(back.value(StepScalar::Loss).is_nan() && back.value(StepScalar::GradNorm).is_nan());
        assert!(back.get(StepScalar::Loss).is_some(), "it is there, and not finite");
        assert_eq!((back.get(StepScalar::Skipped), back.report().skipped_total), (Some(2.0), 2));
    }

    #[test]
    fn fp8_and_images_have_keys_of_their_own() {
        let fp8 = Fp8Report { underflow: (0.1, "a.x".into()), saturated: (0.25, "b.dy".into()), nonfinite: 1.0 };
        let report = StepReport { fp8: Some(fp8), ..crate::diagnose::testing::report(3) };
        let event = StepEvent::new(&report, TIMING, true);
        let line = serde_json::to_string(&event).unwrap();
        let expected = r#"{"step":3,"loss":2.0,"lr":0.001,"grad_norm":1.0,"loss_scale":null,"skipped":0,"found_inf":false,"#
            .to_string()
            + r#""growth_tracker":null,"ms":12.346,"img_per_s":1000.0,"mfu":0.5,"fp8":{"underflow":0.1,"underflow_tensor":"a.x","#
            + r#""saturated":0.25,"saturated_tensor":"b.dy","nonfinite":1.0}}"#;
        assert_eq!(line, expected);
        assert_eq!(serde_json::from_str::<StepEvent>(&line).unwrap(), event);
        // As earlier versions wrote it.
        let older = line.replace("\"img_per_s\"", "\"tok_per_s\":null,\"img_per_s\"");
        assert_eq!(serde_json::from_str::<StepEvent>(&older).unwrap(), event);
    }

    #[test]
    fn a_key_that_is_missing_or_of_another_type_is_an_error() {
        let line = serde_json::to_string(&StepEvent::new(&report(), TIMING, false)).unwrap();
        assert!(serde_json::from_str::<StepEvent>(&line).is_ok());
        let bad = ["\"step\":3,", "\"lr\":0.001,", "\"skipped\":2,", "\"found_inf\":true,", "\"ms\":12.346,"];
        for missing in bad {
            assert!(serde_json::from_str::<StepEvent>(&line.replace(missing, "")).is_err(), "{missing}");
        }
        for (is, other) in
            [("65536.0", "\"x\""), ("\"skipped\":2", "\"skipped\":-2"), ("\"found_inf\":true", "\"found_inf\":1")]
        {
            assert!(serde_json::from_str::<StepEvent>(&line.replace(is, other)).is_err(), "{other}");
        }
        let more = line.replacen('{', "{\"later\":{\"a\":[1]},", 1);
        assert!(serde_json::from_str::<StepEvent>(&more).is_ok(), "a key of a later version");
    }

    #[test]
    fn every_f32_comes_back_to_the_bit() {
        for bits in (0..0x7f80_0000u32).step_by(65_521) {
            let x = f32::from_bits(bits);
            let report = StepReport { loss: x, loss_scale: Some(x), ..crate::diagnose::testing::report(3) };
            let line = serde_json::to_string(&StepEvent::new(&report, TIMING, false)).unwrap();
            let back = serde_json::from_str::<StepEvent>(&line).unwrap().report();
            assert_eq!((back.loss.to_bits(), back.loss_scale.map(f32::to_bits)), (bits, Some(bits)), "{line}");
        }
    }
}
