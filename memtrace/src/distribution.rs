//! How the latencies and ages of a call site are distributed.

use serde::{Deserialize, Serialize};

/// Placeholder shape; see the module's owner.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Distribution {}
