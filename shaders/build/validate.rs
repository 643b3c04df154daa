//! What naga says of a kernel.

use naga::Module;
use naga::valid::{Capabilities, ModuleInfo, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator};

/// What naga makes of the text on a device that has conversions of f16, what is asked for, and nothing else.
pub(crate) fn validate(text: &str, subgroups: bool, int64: bool) -> Result<(Module, ModuleInfo), String> {
    let module = naga::front::wgsl::parse_str(text).map_err(|e| e.emit_to_string(text))?;
    let conversions = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    let (mut capabilities, stages, operations) = if subgroups {
        (conversions | Capabilities::SUBGROUP, ShaderStages::COMPUTE, SubgroupOperationSet::all())
    } else {
        (conversions, ShaderStages::empty(), SubgroupOperationSet::empty())
    };
    capabilities.set(Capabilities::SHADER_INT64, int64);
    let mut validator = Validator::new(ValidationFlags::all(), capabilities);
    validator.subgroup_stages(stages).subgroup_operations(operations);
    let info = validator.validate(&module).map_err(|e| e.emit_to_string(text))?;
    Ok((module, info))
}
