//! The programs in the README and in the guides, as documentation tests.

#[doc = include_str!("../../README.md")]
struct Readme;

#[doc = include_str!("../../docs/guides/getting-started.md")]
struct GettingStarted;

#[doc = include_str!("../../docs/guides/one-crate-alone.md")]
struct OneCrateAlone;

#[doc = include_str!("../../docs/guides/from-elixir.md")]
struct FromElixir;

#[doc = include_str!("../../docs/guides/interop.md")]
struct Interop;

#[doc = include_str!("../../docs/guides/supervision.md")]
struct Supervision;

#[doc = include_str!("../../docs/guides/delivery-guarantees.md")]
struct DeliveryGuarantees;
