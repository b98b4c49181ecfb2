# Counts the lines, words and bytes of the text on stdin, and says so in JSON on stdout.
# A word is a run of letters, digits and apostrophes; bytes of other scripts (UTF-8) count as letters.

{
    bytes += length($0) + 1
    gsub(/[^A-Za-z0-9'\200-\377]+/, " ")
    for (i = 1; i <= NF; i++) {
        if (!count[tolower($i)]++) distinct++
        words++
    }
}

END {
    if (!words) {
        print "there is no word in the text" > "/dev/stderr"
        exit 65  # EX_DATAERR: another try would end the same way
    }
    printf "{\"lines\":%d,\"words\":%d,\"bytes\":%d,\"distinct\":%d,\"top\":[", NR, words, bytes, distinct
    for (rank = 1; rank <= 5 && rank <= distinct; rank++) {
        word = most_frequent()
        printf "%s{\"word\":\"%s\",\"count\":%d}", (rank > 1 ? "," : ""), word, count[word]
        delete count[word]
    }
    print "]}"
}

function most_frequent(    word, best) {
    best = ""
    for (word in count)
        if (best == "" || count[word] > count[best] || (count[word] == count[best] && word < best))
            best = word
    return best
}
