"""The embedded model, 2.1 million parameters, drafting for itself; runs on anything.

    python -m launch.generate --method=lc,rag,rapid,hd

answers a dossier question about the embedded archive and prints the four methods side by side. eta was chosen among
2, 4, 8 and 16 on other archives than those on which the methods are compared (README): 8 gives up too many of the logs
that only the whole document has, 2 takes too little of what the passages make plain.

    python -m launch.generate --method=lc,pld,hd

drafts from n-gram databases. On a CPU every row of a verification costs its arithmetic, so one candidate of six tokens
takes the place of the published seven of four with their lookahead window, and prompt lookup is asked first.
"""

from configs import base


def get_config():
    return base.make(
        speculation=dict(gamma=10, eta=4.0),
        hierarchy=dict(
            databases=("history", "context", "model", "statistics"),
            candidates=1,
            length=6,
            match=6,
            min_match=2,
            window=0,
        ),
        sampling=dict(temperature=0.0, max_new_tokens=256),
    )
