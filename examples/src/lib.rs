//! Holds nothing: the programs are in the folders beside this one.
