// Rows of `seen`, one a tensor: amax, underflows, saturated and non-finite elements; the scale used, never 0 where the tensor was met since
// the last record; the number of elements as a float.

const SEEN: u32 = 8u;
const SEEN_SCALE: u32 = 4u;
const SEEN_COUNT: u32 = 5u;
