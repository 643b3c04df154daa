// Rows of `staged_stats`, one a tensor: amax; counts of underflows, saturated and non-finite elements; the scale used,
// which is 0 unless the tensor was quantized since the last flush; the number of elements as a float.

const STATS_ROW: u32 = 8u;
const STATS_SCALE: u32 = 4u;
const STATS_COUNT: u32 = 5u;
