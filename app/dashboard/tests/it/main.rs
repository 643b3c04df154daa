//! The dashboard as its users meet it: found by label, pressed and typed into, with a real trainer behind it or with events made up.

mod made_up;
mod panels;
mod pictures;
mod support;
mod training;
