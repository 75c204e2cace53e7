// Package level says what a build knows of what the metadata service keeps: which
// commands and records there are, which fields they have, and how they are carried out.
//
// A cluster has one level, in its replicated state (state.State.Level), and each build
// knows a range of them (Build). The leader proposes nothing above the cluster's level,
// so that nodes of an older build go on. An operator raises it when all nodes know the
// next one; it is never lowered. A node that does not know the cluster's level refuses
// to begin (UnknownError): what it skipped would make it differ from the others.
//
// To add a field or a command to what is replicated once a version was released
// (Released):
//
//   - set Highest one higher than Released, if it is not yet;
//   - give the field the tag `level:"N"` with that number. The fields of a new struct
//     that only such a field leads to need none of their own;
//   - fill it only where state.State.Knows(N); whoever proposes it at a lower level gets a refusal;
//   - a change of what a command of before does needs a level too: ask Knows(N), and
//     keep the former way for lower ones until Lowest has passed them;
//   - run go test ./meta/store -run Levels -update, which notes the fields of level N. It
//     refuses to change those of a level that was released.
//
// Nouns: Level, Build, UnknownError. Of tells the level of a value, Fields lists those of a type.
package level
