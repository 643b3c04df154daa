// Eight neighbouring words of a buffer as two vectors, which every device reads and writes.
alias EightWords = array<vec4<u32>, 2>;

// The words in order.
fn words_of(v: EightWords) -> array<vec4<u32>, 2> {
    return v;
}

fn eight_words(halves: array<vec4<u32>, 2>) -> EightWords {
    return halves;
}
