//! The pure part of the benchmark (benches/planes/report): samples in, documents out. Nothing is measured here.

#[allow(dead_code)]
#[path = "../benches/planes/report/mod.rs"]
mod report;

use report::figures::{self, Access, Order, Sharing, touch};
use report::stats::{Summary, quantile};
use report::targets::{self, Limit, Target};
use report::{Machine, Role, Run, Subject, markdown, plots, svg};

const FULL: &str = "qemu-storage-daemon";

fn run() -> Run {
    let subject = |(name, role): (&str, Role)| Subject { name: name.into(), role, what: "a & <b>".into() };
    let subjects = [
        (figures::NATIVE, Role::Native),
        (figures::MEMFD, Role::Native),
        (figures::REFLINKS[0], Role::Kernel),
        (FULL, Role::FusePeer),
        ("xmount", Role::FusePeer),
        (figures::ROM, Role::Templatefs),
        (figures::READ_ONLY, Role::Templatefs),
        (figures::DEFAULT, Role::Templatefs),
        (figures::LEARNED, Role::Templatefs),
    ];
    Run { subjects: subjects.map(subject).to_vec(), ..Run::default() }
}

/// The targets of one subject under this heading.
fn found(run: &Run, what: &str, subject: &str) -> Vec<Target> {
    targets::all(run)
        .into_iter()
        .filter(|target| target.what.starts_with(what) && target.subject == subject)
        .collect()
}

fn ratio(run: &Run, what: &str, subject: &str) -> (Option<f64>, Option<bool>) {
    let all = found(run, what, subject);
    assert_eq!(all.len(), 1, "{what}, {subject}");
    (all[0].ratio, all[0].met())
}

fn close(ratio: Option<f64>, wanted: f64) -> bool {
    ratio.is_some_and(|ratio| (ratio - wanted).abs() < 1e-9)
}

#[test]
fn a_summary_is_of_quartiles_whatever_the_samples_order() {
    let summary = Summary::of(&[5.0, 1.0, 4.0, 2.0, 3.0]).unwrap();
    let Summary { count, least, low, median, high, most } = summary;
    assert_eq!((count, least, low, median, high, most), (5, 1.0, 2.0, 3.0, 4.0, 5.0));
    assert_eq!(Summary::of(&[1.0, 2.0]).unwrap().median, 1.5);
    assert_eq!(Summary::of(&[7.0]).unwrap().high, 7.0);
    assert_eq!(Summary::of(&[]), None);
}

#[test]
fn a_quantile_lies_between_its_neighbours() {
    let sorted: Vec<f64> = (0..=1000).map(f64::from).collect();
    assert_eq!(quantile(&sorted, 0.999), Some(999.0));
    assert_eq!(quantile(&sorted, 0.0005), Some(0.5));
    assert_eq!(quantile(&sorted, 2.0), Some(1000.0));
    assert_eq!(quantile(&[], 0.5), None);
}

#[test]
fn samples_gather_by_figure_circumstance_and_subject() {
    let mut run = run();
    for (at, value) in [("random", 1.0), ("guest", 9.0), ("random", 3.0)] {
        run.add(figures::OPEN, at, figures::ROM, value);
    }
    assert_eq!(run.median(figures::OPEN, "random", figures::ROM), Some(2.0));
    assert_eq!(run.median(figures::OPEN, "guest", figures::ROM), Some(9.0));
    assert_eq!(run.median(figures::OPEN, "guest", figures::DEFAULT), None);
    assert_eq!(run.circumstances(figures::OPEN), ["random", "guest"]);
}

#[test]
fn the_private_mappings_target_is_judged_by_the_slowest_of_its_faults_on_the_worse_template() {
    let what = "O_RDONLY + MAP_PRIVATE";
    let mut run = run();
    for at in targets::TEMPLATES {
        for order in Order::ALL {
            for access in Access::ALL {
                let figure = touch(order, access, Sharing::Private);
                run.add(&figure, at, figures::NATIVE, 2.0);
                run.add(&figure, at, figures::READ_ONLY, 2.0);
            }
        }
    }
    assert_eq!(ratio(&run, what, figures::READ_ONLY), (Some(1.0), Some(true)));
    let slow = touch(Order::Random, Access::Write, Sharing::Private);
    run.add(&slow, "guest", figures::READ_ONLY, 4.0);
    assert_eq!(ratio(&run, what, figures::READ_ONLY), (Some(1.5), Some(false)));
}

/// A figure that is missing would otherwise count as met.
#[test]
fn a_target_that_was_measured_in_part_is_not_measured() {
    let mut run = run();
    let figure = touch(Order::Sequential, Access::Read, Sharing::Private);
    run.add(&figure, "random", figures::NATIVE, 1.0);
    run.add(&figure, "random", figures::READ_ONLY, 1.0);
    run.add(&figure, "guest", figures::NATIVE, 1.0);
    assert_eq!(ratio(&run, "O_RDONLY + MAP_PRIVATE", figures::READ_ONLY), (None, None));
    run.series.pop();
    // Of the four faults one was measured.
    let other = touch(Order::Random, Access::Read, Sharing::Private);
    run.add(&other, "random", figures::NATIVE, 1.0);
    assert_eq!(ratio(&run, "O_RDONLY + MAP_PRIVATE", figures::READ_ONLY), (None, None));
}

#[test]
fn peers_are_compared_by_the_fastest_of_them() {
    let mut run = run();
    run.add(figures::MAKE, "random", FULL, 30_000.0);
    run.add(figures::MAKE, "random", "xmount", 20_000.0);
    run.add(figures::OPEN, "random", figures::DEFAULT, 100.0);
    run.add(figures::OPEN, "random", figures::ROM, 50.0);
    run.add(figures::OPEN, "random", FULL, 25.0);
    assert_eq!(ratio(&run, "a new private view: times", figures::DEFAULT), (Some(200.0), Some(true)));
    assert_eq!(ratio(&run, "opening a ROM view", figures::ROM), (Some(2.0), Some(false)));
    let of_rom = &found(&run, "a new private view", figures::DEFAULT)[1];
    assert_eq!((of_rom.ratio, of_rom.limit, of_rom.met()), (Some(2.0), Limit::AtMost(3.0), Some(true)));
}

#[test]
fn a_known_working_set_has_targets_of_its_own() {
    let mut run = run();
    let figure = touch(Order::Random, Access::Write, Sharing::Shared);
    let measured = [
        (figures::MEMFD, 2.0),
        (figures::DEFAULT, 20.0),
        (figures::LEARNED, 3.0),
        (FULL, 33.0),
        (figures::REFLINKS[0], 2.0),
    ];
    for (subject, value) in measured {
        run.add(&figure, "random", subject, value);
    }
    let write = "random first write, MAP_SHARED";
    assert_eq!(ratio(&run, write, figures::DEFAULT), (Some(10.0), Some(false)));
    assert_eq!(ratio(&run, write, figures::LEARNED), (Some(1.5), Some(true)));
    let same = found(&run, "the same", figures::LEARNED);
    assert_eq!((same[0].ratio, same[0].met()), (Some(11.0), Some(true)));
    assert!(close(same[1].ratio, 2.0 / 3.0) && same[1].met() == Some(false));
    assert!(found(&run, "the same", figures::DEFAULT).is_empty());
}

#[test]
fn memory_is_judged_with_the_most_views_and_idle_views_likewise() {
    let mut run = run();
    for (at, bytes) in [("1", 900.0), ("64", 110.0)] {
        run.add(figures::VIEWS_MEMORY, at, figures::DEFAULT, bytes);
        run.add(figures::VIEWS_TOUCHED, at, figures::DEFAULT, 100.0);
    }
    for (at, bytes) in [("100", 99_999.0), ("1000", 8192.0)] {
        run.add(figures::IDLE_MEMORY, at, figures::DEFAULT, bytes);
    }
    assert_eq!(ratio(&run, "memory of a share=on view", figures::DEFAULT), (Some(1.1), Some(true)));
    // Ten thousand of these did not fit; of the others they did.
    run.add(figures::IDLE_MEMORY, "10000", figures::LEARNED, 32768.0);
    assert_eq!(ratio(&run, "daemon memory", figures::DEFAULT), (Some(0.5), Some(true)));
    assert_eq!(ratio(&run, "daemon memory", figures::LEARNED), (Some(2.0), Some(false)));
}

#[test]
fn the_document_tells_medians_ratios_targets_and_refusals() {
    let mut run = run();
    run.machine = Machine { cores: 2, kernel: "6.18".into(), load: vec![1.0, 3.0], ..Machine::default() };
    let figure = touch(Order::Random, Access::Write, Sharing::Shared);
    for value in [1.0, 2.0, 4.0] {
        run.add(&figure, "random", figures::MEMFD, value);
        run.add(&figure, "random", figures::DEFAULT, value * 10.0);
    }
    for (number, milliseconds) in (0..20).zip(100..) {
        run.add(figures::CLONE_TIME, "guest", figures::NATIVE, f64::from(milliseconds) * 1e3);
        run.add(figures::CLONE_TIME, "guest", figures::DEFAULT, f64::from(milliseconds + number) * 1e3);
    }
    run.refuse("xmount", "touch", "no such\n  file | or directory");
    run.refuse("xmount", "touch", "no such file | or directory");
    run.refuse("xmount", "data", "no such file | or directory");
    let text = markdown::render(&run);
    for wanted in [
        "| templatefs:default | - | - | - | 20.0 (10.0–40.0) ×10.0 |",
        "| random first write, MAP_SHARED, template never used | templatefs:default | 10.0 | of a filled memfd \
         | at most 8.00 | **missed** |",
        "| native | 110 ×1.00 | 118 | - |",
        "| xmount | touch, data | no such file \\| or directory |",
        "2 cores of",
        "median 2.0, 1.0 to 3.0",
    ] {
        assert!(text.contains(wanted), "{wanted:?} is not in\n{text}");
    }
    // What was not measured has no table.
    assert!(!text.contains("pread 4 KiB") && !text.contains("Views at once"));
}

#[test]
fn samples_survive_being_written_and_read() {
    let mut run = run();
    run.add(figures::OPEN, "random", figures::ROM, 1.25);
    let again: Run = serde_json::from_str(&serde_json::to_string(&run).unwrap()).unwrap();
    assert_eq!(markdown::render(&again), markdown::render(&run));
    assert!(markdown::render(&run).contains("1.25"));
}

#[test]
fn plots_are_svg_with_a_bar_or_a_line_for_each_subject_measured() {
    let mut run = run();
    let figure = touch(Order::Random, Access::Write, Sharing::Shared);
    run.add(&figure, "random", figures::MEMFD, 2.0);
    run.add(&figure, "random", figures::DEFAULT, 200.0);
    for (at, value) in [("64 MiB", 10.0), ("1 TiB", 0.0)] {
        run.add(figures::OPEN_BY_SIZE, at, figures::ROM, value);
    }
    let plots = plots::all(&run);
    let names: Vec<_> = plots.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["benchmark-first-touch.svg", "benchmark-open-size.svg"]);
    let count = |svg: &str, tag: &str| {
        let document = roxmltree::Document::parse(svg).unwrap();
        document.descendants().filter(|node| node.has_tag_name(tag)).count()
    };
    // The ground and two bars.
    assert_eq!(count(&plots[0].1, "rect"), 3);
    assert_eq!(count(&plots[1].1, "polyline"), 1);
    assert!(plots.iter().all(|(_, svg)| !svg.contains("NaN") && !svg.contains("inf")));
}

#[test]
fn a_bar_is_as_long_as_its_median_in_decades() {
    let bar = |value: f64| svg::Bar {
        label: "<&>".into(),
        summary: Summary::of(&[value]).unwrap(),
        colour: "#123456",
    };
    let picture = svg::bars("a < b & c", "us", &[bar(1.0), bar(10.0), bar(100.0)]);
    let document = roxmltree::Document::parse(&picture).unwrap();
    let bars = document.descendants().filter(|node| node.attribute("fill") == Some("#123456"));
    let widths: Vec<f64> = bars.map(|bar| bar.attribute("width").unwrap().parse().unwrap()).collect();
    assert_eq!(widths[0], 0.0);
    assert!((widths[2] - 2.0 * widths[1]).abs() < 0.2 && widths[1] > 0.0, "{widths:?}");
    assert!(document.descendants().any(|node| node.text() == Some("<&>")));
}
