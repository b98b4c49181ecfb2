# Logs, alarms, and one page that shows how it goes.

resource "aws_cloudwatch_log_group" "this" {
  for_each = toset(["cache", "deployer", "dispatcher", "flows", "gateway", "kafka"])

  name              = "/${var.name}/${each.key}"
  retention_in_days = var.log_retention_days
  kms_key_id        = aws_kms_key.data.arn

  tags = local.tags
}

resource "aws_sns_topic" "alarms" {
  name              = "${var.name}-alarms"
  kms_master_key_id = aws_kms_key.data.id

  tags = local.tags
}

resource "aws_sns_topic_subscription" "email" {
  count = var.alarm_email == null ? 0 : 1

  topic_arn = aws_sns_topic.alarms.arn
  protocol  = "email"
  endpoint  = var.alarm_email
}

locals {
  service_dimensions = {
    for name in ["gateway", "dispatcher"] : name => { ClusterName = aws_ecs_cluster.this.name, ServiceName = name }
  }
  # As ElastiCache calls them.
  cache_nodes      = [for number in range(1, 2 + var.cache_replicas) : format("%s-%03d", var.name, number)]
  kafka_dimensions = { "Cluster Name" = aws_msk_cluster.this.cluster_name }

  # What somebody has to look at, by name. Five periods of a minute, unless said otherwise.
  alarms = merge(
    {
      gateway-errors = {
        description = "Gateways answer with errors of their own"
        namespace   = "AWS/ApplicationELB", metric = "HTTPCode_Target_5XX_Count", statistic = "Sum"
        dimensions  = { LoadBalancer = aws_lb.this.arn_suffix }
        comparison  = "GreaterThanThreshold", threshold = 50, missing = "notBreaching"
      }
      gateways-missing = {
        description = "There are fewer gateways than there are to be"
        namespace   = "ECS/ContainerInsights", metric = "RunningTaskCount", statistic = "Average"
        dimensions  = local.service_dimensions.gateway
        comparison  = "LessThanThreshold", threshold = var.gateway.min, missing = "breaching"
      }
      dispatchers-missing = {
        description = "There are fewer dispatchers than there are to be"
        namespace   = "ECS/ContainerInsights", metric = "RunningTaskCount", statistic = "Average"
        dimensions  = local.service_dimensions.dispatcher
        comparison  = "LessThanThreshold", threshold = var.dispatcher.min, missing = "breaching"
      }
      partitions-offline = {
        description = "Partitions of the log have no leader: nothing is accepted for them"
        namespace   = "AWS/Kafka", metric = "OfflinePartitionsCount", statistic = "Maximum"
        dimensions  = local.kafka_dimensions
        comparison  = "GreaterThanThreshold", threshold = 0, missing = "notBreaching"
      }
    },
    { for node in local.cache_nodes : "cache-${node}-full" => {
      description = "The cache's node ${node} is nearly full, and refuses writes when it is"
      namespace   = "AWS/ElastiCache", metric = "DatabaseMemoryUsagePercentage", statistic = "Maximum"
      dimensions  = { CacheClusterId = node }
      comparison  = "GreaterThanThreshold", threshold = 80, missing = "notBreaching"
    } },
    { for lane, lag in local.lag_metrics : "waiting-${lane}" => {
      description = "More tasks wait in the lane ${lane} than all dispatchers are meant for"
      namespace   = lag.namespace, metric = lag.metric_name, statistic = "Maximum"
      dimensions  = lag.dimensions
      comparison  = "GreaterThanThreshold", threshold = 2 * var.dispatcher.max * var.dispatcher.waiting_tasks
      missing     = "notBreaching"
    } },
    { for broker in range(1, var.zones + 1) : "broker-${broker}-disk" => {
      description = "The disk of broker ${broker} is nearly full"
      namespace   = "AWS/Kafka", metric = "KafkaDataLogsDiskUsed", statistic = "Maximum"
      dimensions  = merge(local.kafka_dimensions, { "Broker ID" = tostring(broker) })
      comparison  = "GreaterThanThreshold", threshold = 85, missing = "notBreaching"
    } },
    { for broker in range(1, var.zones + 1) : "broker-${broker}-replicas" => {
      description = "Partitions that broker ${broker} leads have too few copies"
      namespace   = "AWS/Kafka", metric = "UnderReplicatedPartitions", statistic = "Maximum"
      dimensions  = merge(local.kafka_dimensions, { "Broker ID" = tostring(broker) })
      comparison  = "GreaterThanThreshold", threshold = 0, missing = "notBreaching"
    } },
  )
}

resource "aws_cloudwatch_metric_alarm" "this" {
  for_each = local.alarms

  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = each.value.description
  namespace           = each.value.namespace
  metric_name         = each.value.metric
  statistic           = each.value.statistic
  dimensions          = each.value.dimensions
  comparison_operator = each.value.comparison
  threshold           = each.value.threshold
  period              = 60
  evaluation_periods  = 5
  treat_missing_data  = each.value.missing
  alarm_actions       = [aws_sns_topic.alarms.arn]
  ok_actions          = [aws_sns_topic.alarms.arn]

  tags = local.tags
}

locals {
  # Title => metrics, as a dashboard has them: namespace, name, then dimensions.
  widgets = {
    "Requests" = [
      ["AWS/ApplicationELB", "RequestCount", "LoadBalancer", aws_lb.this.arn_suffix, { stat = "Sum" }],
      ["AWS/ApplicationELB", "HTTPCode_Target_5XX_Count", "LoadBalancer", aws_lb.this.arn_suffix, { stat = "Sum" }],
    ]
    "Seconds to an answer" = [
      ["AWS/ApplicationELB", "TargetResponseTime", "LoadBalancer", aws_lb.this.arn_suffix, { stat = "p50" }],
      ["AWS/ApplicationELB", "TargetResponseTime", "LoadBalancer", aws_lb.this.arn_suffix, { stat = "p99" }],
    ]
    "Waiting tasks" = [for lane, lag in local.lag_metrics : concat(
      [lag.namespace, lag.metric_name], flatten([for name, value in lag.dimensions : [name, value]]), [{ stat = "Maximum", label = lane }],
    )]
    "Running" = [for name, _ in local.service_dimensions :
      ["ECS/ContainerInsights", "RunningTaskCount", "ClusterName", aws_ecs_cluster.this.name, "ServiceName", name, { label = name }]
    ]
    "Brokers' disks, %" = [for broker in range(1, var.zones + 1) :
      ["AWS/Kafka", "KafkaDataLogsDiskUsed", "Cluster Name", aws_msk_cluster.this.cluster_name, "Broker ID", tostring(broker)]
    ]
    "The cache's memory and CPU, %" = concat(
      [for node in local.cache_nodes : ["AWS/ElastiCache", "DatabaseMemoryUsagePercentage", "CacheClusterId", node]],
      [for node in local.cache_nodes : ["AWS/ElastiCache", "EngineCPUUtilization", "CacheClusterId", node]],
    )
  }
}

resource "aws_cloudwatch_dashboard" "this" {
  dashboard_name = var.name

  dashboard_body = jsonencode({
    widgets = [for number, title in keys(local.widgets) : {
      type   = "metric"
      x      = 12 * (number % 2)
      y      = 6 * floor(number / 2)
      width  = 12
      height = 6
      properties = {
        title   = title
        region  = local.region
        period  = 60
        view    = "timeSeries"
        metrics = local.widgets[title]
      }
    }]
  })
}
