"""Who reads the answers, how a judging model is asked, and how far judges err and agree."""
