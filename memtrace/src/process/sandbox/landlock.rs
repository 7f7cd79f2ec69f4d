//! What is denied by Landlock, which is part of Linux since 5.13 where it is not left out.

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, Ruleset, RulesetAttr as _, RulesetError, RulesetStatus,
    Scope,
};

/// The version whose rights are denied. Older kernels deny those that they know.
const KNOWN: ABI = ABI::V6;

/// Denies everything but reading files. Descriptors are opened again to be read, and the rule that
/// would permit those alone cannot be written: they are not known yet.
pub(super) fn restrict() -> Result<(), String> {
    match try_restrict().map_err(|error| error.to_string())? {
        RulesetStatus::FullyEnforced => Ok(()),
        RulesetStatus::PartiallyEnforced => Err("this kernel has a part of it".to_owned()),
        RulesetStatus::NotEnforced => Err("this kernel does not have it".to_owned()),
    }
}

fn try_restrict() -> Result<RulesetStatus, RulesetError> {
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(KNOWN) & !AccessFs::ReadFile)?
        .handle_access(AccessNet::from_all(KNOWN))?
        .scope(Scope::from_all(KNOWN))?
        .create()?
        .restrict_self()?;
    Ok(status.ruleset)
}
