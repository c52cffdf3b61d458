//! Holds nothing but the test of the README's program: the examples are in the folders beside this one.

#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
