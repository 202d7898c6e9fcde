pub mod error;
pub mod name;
pub mod rules;
