"""The adversarial game in words."""

import pytest

from iccld_cli.adapt.adversarial_health import AdversarialHealth


def verdict(source, target, gradient=0.5, lines=6):
    health = AdversarialHealth()
    row = {"disc_acc_source": source, "disc_acc_target": target, "disc_grad_norm": gradient, "disc_loss": 0.2}
    for _ in range(lines):
        found = health.judge(row)
    return found


@pytest.mark.parametrize(
    ("source", "target", "gradient", "state", "advice"),
    [
        (0.99, 0.98, 0.5, "wins", "lower adv.discriminator_lr"),
        (0.5, 0.5, 1e-5, "dead", "raise adv.discriminator_lr"),
        (0.52, 0.49, 0.4, "guesses", "look alike"),
        (0.8, 0.7, 0.4, "balanced", "source 80%, target 70%"),
        (0.0, 1.0, 0.4, "one-sided", "scores everything as target"),
        (1.0, 0.0, 0.4, "one-sided", "scores everything as source"),
    ],
)
def test_each_end_has_its_words(source, target, gradient, state, advice):
    found = verdict(source, target, gradient)
    assert found.state == state
    assert advice in found.text


def test_a_few_lines_prove_nothing_and_stage_1_has_no_verdict():
    assert verdict(1.0, 1.0, lines=3).state == "warming up"
    assert AdversarialHealth().judge({"loss": 1.0}) is None


def test_a_warning_is_given_once_until_it_is_well_again_and_survives_a_resume():
    health = AdversarialHealth()
    wins = {"disc_acc_source": 1.0, "disc_acc_target": 1.0, "disc_grad_norm": 1.0, "disc_loss": 0.0}
    news = [health.news(health.judge(wins)) for _ in range(8)]
    assert news == [False] * 4 + [True] + [False] * 3
    resumed = AdversarialHealth()
    resumed.restore(health.to_json())
    assert resumed.judge(wins).state == "wins"


def test_a_source_without_scores_in_some_lines_is_judged_by_the_others():
    health = AdversarialHealth()
    for i in range(10):
        row = {"disc_acc_target": 0.7, "disc_grad_norm": 1.0, "disc_loss": 0.2}
        found = health.judge(row | ({"disc_acc_source": 0.8} if i % 2 else {}))
    assert "source 80%, target 70%" in found.text
