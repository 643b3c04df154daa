// Floats as integers of the same order: a maximum that no assumption about NaN can change. Every NaN is the largest of
// all.

const NAN_ORDER: u32 = 0xffffffffu;
// Of -inf.
const LOWEST_ORDER: u32 = 0x007fffffu;

fn order_of(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    let order = select(bits | 0x80000000u, ~bits, bits >= 0x80000000u);
    return select(order, NAN_ORDER, (bits & 0x7fffffffu) > 0x7f800000u);
}

fn from_order(order: u32) -> f32 {
    let bits = select(~order, order & 0x7fffffffu, order >= 0x80000000u);
    return bitcast<f32>(select(bits, 0x7fc00000u, order == NAN_ORDER));
}
