//! Which linear layers of a recorded step multiply in fp8, and why the others do not: read off the Program, since a
//! recipe only asks.

use super::recipe::Recipe;
use crate::dtype::DType;
use crate::program::Program;

/// fp8 tensors that a linear layer registers: input, weight, output gradient.
const SLOTS: usize = 3;
/// Layers named for one reason.
const NAMED: usize = 2;

/// The linear layers of a Program recorded under an fp8 recipe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fp8Layers {
    /// Layers that multiply in fp8.
    pub inside: usize,
    /// The others by reason, in the order of the model: the reason, and their scopes.
    pub outside: Vec<(String, Vec<String>)>,
}

impl Fp8Layers {
    /// Counts those of `program`. All are 0 without an fp8 recipe.
    pub fn of(program: &Program) -> Fp8Layers {
        let mut outside: Vec<(String, Vec<String>)> = Vec::new();
        for left in &program.fp8_left_out {
            match outside.iter_mut().find(|(why, _)| *why == left.why) {
                Some((_, scopes)) => scopes.push(left.scope.clone()),
                None => outside.push((left.why.clone(), vec![left.scope.clone()])),
            }
        }
        Fp8Layers { inside: program.fp8_slots.len() / SLOTS, outside }
    }

    /// Layers in fp8 or not.
    pub fn total(&self) -> usize {
        self.inside + self.outside.iter().map(|(_, scopes)| scopes.len()).sum::<usize>()
    }

    /// `12 of 13 linear layers`.
    pub fn count(&self) -> String {
        let total = self.total();
        format!("{} of {total} linear layer{}", self.inside, if total == 1 { "" } else { "s" })
    }

    /// The layers that are not in fp8, by reason: `gpt.head (the model keeps it out)`; `None` if all are.
    pub fn left_out(&self) -> Option<String> {
        let group = |(why, scopes): &(String, Vec<String>)| {
            let named = scopes.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
            match scopes.len().saturating_sub(NAMED) {
                0 => format!("{named} ({why})"),
                more => format!("{named} and {more} more ({why})"),
            }
        };
        let groups: Vec<String> = self.outside.iter().map(group).collect();
        (!groups.is_empty()).then(|| groups.join(", "))
    }
}

/// The dtype that most of the arithmetic of `program` runs in: that of the recipe, unless it is fp8 and no layer is in
/// fp8.
pub fn compute_dtype(recipe: &Recipe, program: &Program) -> DType {
    match program.fp8_slots.is_empty() {
        true => recipe.low.unwrap_or(DType::F32),
        false => recipe.compute_dtype(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::{Fp8LeftOut, Fp8Slot};

    #[test]
    fn reasons_are_grouped_and_long_lists_cut() {
        let slot = |name: &str| Fp8Slot { name: name.into(), dtype: DType::E4m3 };
        let left = |scope: &str, why: &str| Fp8LeftOut { scope: scope.into(), why: why.into() };
        let program = Program {
            fp8_slots: vec![slot("a.x"), slot("a.weight"), slot("a.dy")],
            fp8_left_out: vec![left("b", "odd"), left("c", "odd"), left("d", "odd"), left("head", "the model keeps it out")],
            ..Program::default()
        };
        let layers = Fp8Layers::of(&program);
        assert_eq!(layers.count(), "1 of 5 linear layers");
        assert_eq!(layers.left_out().as_deref(), Some("b, c and 1 more (odd), head (the model keeps it out)"));
        let none = Fp8Layers::of(&Program::default());
        assert_eq!((none.total(), none.left_out()), (0, None));
    }
}
