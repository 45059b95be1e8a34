"""Measures servers against each other: starts images, loads them in rounds, and says how certain each figure is.

`rounds.measure` takes a `Plan` and gives `Measured`: of each subject (an image with its limits) and each load
(protocol, input, rate) one `Sample` a round. In each round every subject starts again, and each load goes to one
subject after the other, so that what disturbs the machine meets all of them. `statistics` makes figures of the rounds:

    subjects = [Subject(name=id_, image=image, cpus=1) for id_, image in images.items()]
    plan = Plan(subjects=subjects, model=checkout.models / "dense", sizes=(1, 32), rates=())  # rows; no set rates
    measured = measure(engine, plan, cancel=cancel, on_step=lambda done, steps, text: None)
    for load in measured.loads():
        ours, theirs = ([one.per_second for one in measured.samples[subject, load]] for subject in subjects)
        ratio = ratio_of(ours, theirs)  # middle, low, high; ratio.excludes(1.0) is None with too few rounds
        p99 = interval([one.latency(0.99) for one in measured.samples[subjects[0], load]])
"""
