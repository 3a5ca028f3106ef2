package config

import "strings"

// nearest is Nearest for the words of a configuration: it also finds those written with dashes for underscores, or in upper case.
func nearest(text string, words []string) string {
	return Nearest(strings.ReplaceAll(strings.ToLower(text), "-", "_"), words)
}

// Nearest returns the word that text was probably meant to be, or "" when none is near: at most one slip in four letters, or one.
func Nearest(text string, words []string) string {
	if len(text) < 2 {
		return ""
	}
	best, least := "", max(len(text)/4, 1)+1
	for _, word := range words {
		if len(text) > 2*len(word)+1 { // too long to be near; also bounds the work
			continue
		}
		if slips := distance(text, word); slips < least {
			best, least = word, slips
		}
	}
	return best
}

// distance counts the slips between two words: a letter too many, too few, a wrong one, or two neighbours swapped.
func distance(a, b string) int {
	before, last := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row := make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			wrong := 1
			if a[i] == b[j] {
				wrong = 0
			}
			row[j+1] = min(last[j]+wrong, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}

// alternatives returns "a", "a or b", "a, b or c".
func alternatives(words []string) string {
	if len(words) == 1 {
		return words[0]
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}
