"""The constitution: articles in CEL, under which every act is judged.

Server and command line share this package, so that a file judged at a desk and an act judged in
the coordinator get the same verdict. It knows neither of them, does no network, and keeps nothing.

    text ──article.read──▶ Constitution ──admission.admit──▶ may be put into force
                                │
                    Judge(platform, tenant).judge(point, facts) ──▶ Verdict

An article says what must hold. What it may look at is a table (`facts`): flat names with types, so
that the compiler refuses a name or a type that is wrong, and an evaluation converts no more than
it reads. Nothing in the table is larger than a bound that the table states, and graphs come as
counts, so no article can loop over one.

Three rules make it safe to take articles from strangers. What does not evaluate to true or false
denies, whatever the article's effect. What is not provably cheap is refused before it is compiled
(`bounds`). And whatever is left is compiled and evaluated in another process before it is in
this one (`admission`, `trial`).

The library that evaluates, cel-expr-python, is young. Only `cel` knows it.
"""
